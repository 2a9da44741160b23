import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Blend, Network
from diffpo.diffusion.model.kohya import export_kohya
from diffpo.diffusion.pipelines.negative_parts import Adapters, WeightDifference, open_part, require_known_range
from diffpo.lora.files import Layer

THETA = {"a": torch.tensor([1.0, 3.0, 1e-3]), "b": torch.tensor([[0.1, 0.7]])}
POSITIVE = Network("positive", {"a": torch.tensor([1.1, 0.0, 7e4]), "b": torch.tensor([[0.3, 0.9]])})
TARGETS = ["to_q", "to_out.0", "proj_in", "conv1", "conv_shortcut", "ff.net.2"]
PREFIX = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def with_lora(rank: int, alpha: float) -> UNet2DConditionModel:
    unet = tiny.unet()
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS))
    return tiny.trained(unet, by=0.3)


def saved_lora(folder, unet: UNet2DConditionModel) -> str:
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    metadata = unet.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(folder, layers, unet_lora_adapter_metadata=metadata)
    return str(folder)


def refused(part, base=THETA) -> str:
    with pytest.raises(Refusal, match="another architecture") as error:
        Blend(base, ((1.0, part),))
    return str(error.value)


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("kohya", [False, True])
def test_a_lora_adds_what_diffusers_fuses(tmp_path, kohya, scale):
    unet = with_lora(rank=2, alpha=5)
    lora = saved_lora(tmp_path / "run", unet)
    if kohya:
        export_kohya(lora, tmp_path / "kohya.safetensors", torch.float32)
        lora = str(tmp_path / "kohya.safetensors")
    base = tiny.unet()
    part = open_part(lora, base.config)
    mixed = {**Blend(base.state_dict(), ((scale, part),))}
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
    for name, fused in unet.state_dict().items():
        torch.testing.assert_close(mixed[name].float(), fused, rtol=1e-6, atol=1e-6)
    assert {len(base.state_dict()[name].shape) for name in part.names} == {2, 4}


def test_only_what_a_part_has_offsets_for_is_changed():
    part = WeightDifference("it", {"b": torch.ones(1, 2)})
    assert Blend(THETA, ((1.0, part),)).changed == ["b"]
    assert Blend(THETA, ((1.0, POSITIVE), (1.0, part))).changed == ["a", "b"]


@pytest.mark.parametrize("place", ["run", "run/unet", "run/unet/diffusion_pytorch_model.safetensors"])
def test_a_network_is_found_in_a_run_a_folder_or_a_file(tmp_path, place):
    unet = tiny.unet()
    unet.save_pretrained(tmp_path / "run" / "unet")
    part = open_part(str(tmp_path / place), unet.config)
    assert isinstance(part, Network)
    assert all(torch.equal(part.weights[name], tensor) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    ("name", "metadata"), [("difference.safetensors", None), ("x.safetensors", {"diffpo": "difference"})]
)
def test_a_difference_is_known_by_its_name_or_its_metadata(tmp_path, name, metadata):
    save_file({"a": torch.ones(3)}, tmp_path / name, metadata)
    assert isinstance(open_part(str(tmp_path / name), tiny.unet().config), WeightDifference)


def test_a_difference_is_found_in_its_folder(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "difference.safetensors")
    assert isinstance(open_part(str(tmp_path), tiny.unet().config), WeightDifference)


def test_another_architecture_names_the_first_tensor_that_differs():
    assert "the base has no c;" in refused(WeightDifference("other", {"c": torch.ones(1)}))
    layer = Layer(torch.ones(1, 4), torch.ones(1, 1), 1.0)
    assert "its b is (1, 4), the base's (1, 2)" in refused(Adapters("lora", {"b": layer}))
    assert "lora is for another architecture: the base has no c.weight" in refused(
        Adapters("lora", {"c.weight": layer})
    )


def test_what_a_lora_does_to_text_encoders_is_left_out_and_told(tmp_path):
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    lora = {f"{PREFIX}.lora_A.weight": torch.ones(2, 8), f"{PREFIX}.lora_B.weight": torch.ones(8, 2)}
    lora |= {f"{text}.lora_A.weight": torch.ones(2, 8), f"{text}.lora_B.weight": torch.ones(8, 2)}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.warns(UserWarning, match=r"also changes other networks \(2 weights, first text_encoder.*left out"):
        part = open_part(str(tmp_path / "lora.safetensors"), tiny.unet().config)
    assert part.names == {f"{PREFIX.removeprefix('unet.')}.weight"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.bin", "a.bin is no .safetensors file; load it with diffusers once"),
        ("unet/diffusion_pytorch_model.bin", "has its weights in diffusion_pytorch_model.bin, not in safetensors"),
        ("notes.txt", "holds no|does not hold a LoRA"),
    ],
)
def test_what_cannot_be_read_in_pieces_is_refused(tmp_path, file, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(Refusal, match=message):
        open_part(str(tmp_path / file if file == "a.bin" else tmp_path), tiny.unet().config)


def test_a_checkpoint_in_the_original_layout_says_how_to_convert_it(tmp_path):
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(Refusal, match=r"original layout; convert it once with StableDiffusionPipeline.from_single"):
        open_part(str(tmp_path / "x.safetensors"), tiny.unet().config)


def test_scales_outside_the_published_range_are_told(recwarn):
    require_known_range(alpha=0.0, mix=1.0)
    assert not recwarn.list
    require_known_range(alpha=1.5, mix=-0.1)
    assert [str(told.message) for told in recwarn.list] == [
        "alpha is 1.5; the published range is [0, 1].",
        "mix is -0.1; the published range is [0, 1].",
    ]
