import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from tiny import drawn, image_batch, pair_folder, saved, trained, unet
from tiny_loras import layers_of, saved_layers

from diffpo.core.references import FrozenCopy, SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.diffusion.base.prediction import Velocity
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.model.kohya import export_kohya
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.diffusion.objective.checks import require_prediction
from diffpo.diffusion.pipelines.negative_mixing import mix_negative


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("base") / "sd")


def output(model) -> torch.Tensor:
    """Of the network as it is now, on fixed noise."""
    raw = image_batch()
    with torch.no_grad():
        return model.denoiser.eps(raw.latents, torch.full((3,), 500), raw.cond)


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_full_tuning_trains_the_unet_against_a_frozen_copy(base):
    model = StableDiffusion(base).load()
    reference = model.reference()
    before = output(model)
    assert all(p.requires_grad for p in model.unet.parameters())
    assert isinstance(reference, FrozenCopy)
    trained(model.unet)
    assert not torch.equal(output(model), before)
    assert torch.equal(weights(reference.model), weights(unet()))


def test_only_the_unet_is_trained(base):
    parts = StableDiffusion(base).load().parts
    assert not any(p.requires_grad for part in (parts.vae, parts.text_encoder) for p in part.parameters())


def test_a_new_lora_starts_as_the_base_which_stays_its_reference(base):
    plain, model = StableDiffusion(base).load(), StableDiffusion(base, adapter=LoRA(rank=2)).load()
    reference = model.reference()
    assert isinstance(reference, SwitchedOff)
    assert torch.equal(output(model), output(plain))
    trained(model.unet)
    assert not torch.equal(output(model), output(plain))
    assert torch.equal(reference(lambda _: output(model)), output(plain))


def test_half_storage_keeps_what_is_trained_and_the_vae_in_fp32(base):
    full = StableDiffusion(base).load(storage=torch.bfloat16)
    assert {p.dtype for p in full.unet.parameters()} == {torch.float32}
    assert {p.dtype for p in full.parts.vae.parameters()} == {torch.float32}
    assert {p.dtype for p in full.parts.text_encoder.parameters()} == {torch.bfloat16}
    assert full.reference().model.conv_in.weight.dtype == torch.bfloat16
    lora = StableDiffusion(base, adapter=LoRA(rank=2)).load(storage=torch.bfloat16)
    assert {p.dtype for p in lora.unet.parameters() if p.requires_grad} == {torch.float32}
    assert lora.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dora", [False, True])
def test_in_half_storage_a_warm_lora_starts_at_its_reference(base, tmp_path, dora):
    path = saved_layers(tmp_path / "a.safetensors", layers_of(unet(), dora=dora))
    model = StableDiffusion(base, adapter=WarmLoRA(path)).load(storage=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.reference()(lambda _: output(model)), output(model))


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)])
def test_half_storage_passes_the_check_before_a_run(base, tmp_path, adapter):
    pairs = PairData(PairFolder(str(pair_folder(tmp_path, n=2))), framing=Framing(32), workers=0).open()
    model = StableDiffusion(base, adapter=adapter).load(storage=torch.bfloat16)
    require_prediction(model.denoiser, *model.first(pairs))


def test_a_saved_unet_draws_the_same_picture_in_plain_diffusers(base, tmp_path):
    config = StableDiffusion(base)
    model = config.load()
    trained(model.unet)
    before = drawn(model.pipeline())
    model.save(tmp_path)
    tuned = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert np.array_equal(drawn(StableDiffusionPipeline.from_pretrained(base, unet=tuned)), before)
    assert np.array_equal(drawn(load_tuned(config, tmp_path)), before)
    assert not np.array_equal(drawn(load_pipeline(config)), before)


def test_a_saved_lora_draws_the_same_picture_in_plain_diffusers(base, tmp_path):
    config = StableDiffusion(base, adapter=LoRA(rank=2, alpha=6.0))
    model = config.load()
    trained(model.unet)
    before = drawn(model.pipeline())
    model.save(tmp_path)
    plain = StableDiffusionPipeline.from_pretrained(base)
    plain.load_lora_weights(tmp_path)
    assert np.array_equal(drawn(plain), before)
    assert np.array_equal(drawn(load_tuned(config, tmp_path)), before)
    assert not np.array_equal(drawn(load_pipeline(config)), before)


def test_the_same_lora_is_saved_as_the_same_file(base, tmp_path):
    """Names of layers are a set, whose order differs between processes."""
    StableDiffusion(base, adapter=LoRA(rank=2)).load().save(tmp_path)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "pt") as saved_lora:
        metadata = json.loads(saved_lora.metadata()["lora_adapter_metadata"])
    assert metadata["unet.target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]


def test_a_warm_lora_goes_on_from_the_saved_one_and_is_saved_alone(base, tmp_path):
    first = StableDiffusion(base, adapter=LoRA(rank=2)).load()
    trained(first.unet)
    first.save(tmp_path / "first")
    config = StableDiffusion(base, adapter=WarmLoRA(str(tmp_path / "first")))
    second = config.load()
    reference = second.reference()
    torch.testing.assert_close(output(second), output(first))
    trained(second.unet)
    assert not torch.allclose(output(second), output(first))
    torch.testing.assert_close(reference(lambda _: output(second)), output(first))
    second.save(tmp_path / "second")
    assert np.array_equal(drawn(load_tuned(config, tmp_path / "second")), drawn(second.pipeline()))


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)])
def test_an_export_that_is_not_what_was_written_is_loaded_by_none_of_our_readers(base, tmp_path, adapter):
    """A flipped bit among weights is a whole file, of other weights."""
    config, run, path = StableDiffusion(base, adapter=adapter), tmp_path / "run", str(tmp_path / "run")
    config.load().save(run)
    file = run / (
        "unet/diffusion_pytorch_model.safetensors" if adapter is None else "pytorch_lora_weights.safetensors"
    )
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    readers = {
        "evaluation at the end": lambda: load_tuned(config, run),
        "evaluation": lambda: ComparedModel("a", base, **{"unet" if adapter is None else "lora": path}).load(),
        "of the file": lambda: ComparedModel("a", base, **{"unet" if adapter is None else "lora": str(file)}).load(),
        "as a negative": lambda: mix_negative(base, path, tmp_path / "mixed"),
        "with guidance": lambda: ComparedModel("a", base, negative=path).load(),
    }
    if adapter is not None:
        readers["training goes on"] = lambda: StableDiffusion(base, adapter=WarmLoRA(path)).load()
        readers["for other programs"] = lambda: export_kohya(path, tmp_path / "out.safetensors")
    told = f"^{run} is not as it was written: {file.relative_to(run)} holds something else than was written; copy"
    for read in readers.values():
        with pytest.raises(Refusal, match=told):
            read()
    (run / "files.json").unlink()
    for read in readers.values():
        read()


def test_an_export_is_named_by_the_process_that_writes_it(base, tmp_path):
    StableDiffusion(base, adapter=LoRA(rank=2)).load().save(tmp_path / "run", writes=False)
    assert not (tmp_path / "run").exists()


def test_a_mixture_is_vouched_for_like_an_export(base, tmp_path):
    StableDiffusion(base, adapter=LoRA(rank=2)).load().save(tmp_path / "run")
    mixed = mix_negative(base, str(tmp_path / "run"), tmp_path / "mixed").path
    (mixed / "config.json").write_text("{}")
    with pytest.raises(Refusal, match="mixed is not as it was written: unet/config.json has 2 bytes"):
        StableDiffusion(base, unet=str(mixed)).load()


def test_a_lora_is_no_unet_to_start_from(base, tmp_path):
    StableDiffusion(base, adapter=LoRA(rank=2)).load().save(tmp_path)
    with pytest.raises(Refusal, match="does not hold a UNet"):
        StableDiffusion(base, unet=str(tmp_path)).load()


def test_compiled_blocks_keep_the_names_of_their_weights(base):
    model = StableDiffusion(base, compile=True).load()
    compiled = [type(m).__name__ for m in model.unet.modules() if m._compiled_call_impl is not None]
    assert set(compiled) == {"BasicTransformerBlock"}
    assert model.unet.state_dict().keys() == unet().state_dict().keys()


def test_prediction_type_is_read_off_the_base(tmp_path):
    folder = saved(tmp_path, prediction_type="v_prediction")
    assert StableDiffusion(folder).load().denoiser.prediction == Velocity()


def test_gradient_checkpointing_changes_no_gradient(base):
    def gradient(checkpointing: bool) -> torch.Tensor:
        model = StableDiffusion(base, gradient_checkpointing=checkpointing).load()
        assert model.unet.is_gradient_checkpointing == checkpointing
        raw = image_batch()
        model.denoiser.eps(raw.latents, torch.full((3,), 500), raw.cond).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.unet.parameters()])

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)])
def test_weights_that_cannot_be_written_are_told_in_a_line(base, tmp_path, adapter):
    """A file stands where the folder would be."""
    model = StableDiffusion(base, adapter=adapter).load()
    (tmp_path / "taken").write_text("")
    with pytest.raises(Refusal, match="The weights in .*run could not be written .*--resume latest"):
        model.save(tmp_path / "taken" / "run")


def test_channels_last_changes_the_layout_and_hardly_a_bit(base):
    plain, model = StableDiffusion(base).load(), StableDiffusion(base, channels_last=True).load()
    assert model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.reference().model.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output(model), output(plain), rtol=1e-4, atol=1e-5)


def test_what_encodes_is_loaded_only_where_something_is_encoded_or_drawn(base, tmp_path):
    drawing = StableDiffusion(base).load("meta", storage=torch.bfloat16, encodes=False)
    assert {p.device.type for p in drawing.unet.parameters()} == {"meta"}
    kept = (drawing.parts.vae, drawing.parts.text_encoder)
    assert {p.device.type for part in kept for p in part.parameters()} == {"cpu"}
    assert drawing.parts.text_encoder.dtype == torch.bfloat16
    alone = StableDiffusion(base).load(encodes=False, draws=False)
    assert (alone.parts.vae, alone.parts.text_encoder, alone.parts.tokenizer, alone.encoder) == (None,) * 4
    assert torch.equal(output(alone), output(StableDiffusion(base).load()))
    alone.save(tmp_path)
    UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert alone.report() == ""


def test_pixels_need_the_encoders(base, tmp_path):
    pairs = PairData(PairFolder(str(pair_folder(tmp_path, n=2))), framing=Framing(32), workers=0).open()
    with pytest.raises(Refusal, match="was loaded for encoded pairs; load it with encodes=True"):
        StableDiffusion(base).load(encodes=False, draws=False).first(pairs)
