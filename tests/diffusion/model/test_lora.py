import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import moved, pipeline, trained, unet
from tiny_loras import layers_of, output, save_shifted, saved_layers, shift_adapter

import diffpo.diffusion.model.lora
from diffpo.core.references import SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.lora.layers import require_put
from diffpo.train.adapters import adapters_off


@pytest.fixture
def lora_file(tmp_path):
    """A trained LoRA of the tiny UNet as diffusers writes it, and that UNet."""
    return tmp_path, save_shifted(tmp_path)


def test_new_lora_changes_nothing_at_start_and_trains_only_itself():
    network = unet()
    before = output(network)
    LoRA(rank=2).attach(network)
    assert torch.equal(output(network), before)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_warm_lora_starts_from_the_file_and_keeps_it_as_reference(lora_file):
    folder, original = lora_file
    network, adapter = unet(), WarmLoRA(str(folder))
    adapter.attach(network)
    torch.testing.assert_close(output(network), output(original))
    shift_adapter(network)
    assert not torch.allclose(output(network), output(original))
    torch.testing.assert_close(SwitchedOff(network, adapter.off)(output), output(original))
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained
    assert all(".default." in name for name in trained)


def test_switching_a_plain_network_is_refused():
    with pytest.raises(Refusal, match="has no adapters to switch; set base.adapter"), adapters_off(unet()):
        pass


def test_warm_lora_from_nowhere_is_one_line(tmp_path):
    with pytest.raises(Refusal, match="does not hold a LoRA that can be read"):
        WarmLoRA(str(tmp_path)).attach(unet())


def test_exported_lora_loads_in_a_plain_pipeline(lora_file):
    folder, original = lora_file
    pipe = pipeline()
    pipe.load_lora_weights(folder)
    torch.testing.assert_close(output(pipe.unet), output(original))
    assert copy.deepcopy(pipe.unet.peft_config["default_0"]).lora_alpha == 6
    assert not torch.equal(output(moved(unet())), output(unet()))


def test_layers_that_the_network_lacks_are_named():
    with pytest.raises(Refusal, match="UNet2DConditionModel has no layer 'to_p'; name others .* layers are .*to_q"):
        LoRA(targets=["to_q", "to_p"]).attach(unet())


def test_a_rank_below_one_is_refused():
    with pytest.raises(Refusal, match="rank of at least 1, got 0"):
        LoRA(rank=0)


@pytest.mark.parametrize("target", ["norm1", "to_out", "down_blocks", "conv_act"])
def test_a_target_that_is_no_layer_with_weights_to_update_is_one_line(target):
    with pytest.raises(Refusal, match=f"peft has no LoRA for to_q, {target} .*; name others") as error:
        LoRA(targets=["to_q", target]).attach(unet())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"alpha": 0.0}, "alpha above 0"), ({"alpha": float("nan")}, "alpha above 0"), ({"targets": []}, "got none")],
)
def test_a_lora_that_could_not_train_anything_is_refused(given, message):
    with pytest.raises(Refusal, match=message):
        LoRA(**given)


def test_a_file_without_a_lora_is_refused(tmp_path):
    unet().save_pretrained(tmp_path)
    with pytest.raises(Refusal, match=f"{tmp_path} holds no LoRA of a UNet"):
        WarmLoRA(str(tmp_path)).attach(unet())


def test_a_new_lora_is_a_function_of_the_seed_and_leaves_the_global_generator_alone():
    def start(seed: int) -> torch.Tensor:
        network = unet()
        LoRA(rank=2).attach(network, seed)
        return torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])

    state = torch.get_rng_state()
    one, again, other = start(0), start(0), start(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "targets",
    [["to_q", "proj_in"], ["conv_in", "to_v"], ["ff.net.2", "to_k", "conv1"], ["time_emb_proj"], ["conv_out"]],
)
def test_every_layer_is_saved_under_one_kind_of_name(tmp_path, targets):
    """Of a file with two kinds diffusers loads one: it looks at the name that sorts first."""
    pipe = pipeline()
    LoRA(rank=2, targets=targets).attach(pipe.unet)
    LoRA().save(pipe, tmp_path)
    names = load_file(tmp_path / "pytorch_lora_weights.safetensors").keys()
    tuned = [name for name, p in pipe.unet.named_parameters() if p.requires_grad]
    assert {f"unet.{name.replace('.default', '')}" for name in tuned} == names


@pytest.mark.parametrize("warm", [False, True])
def test_two_files_of_one_run_have_the_same_bytes(tmp_path, warm):
    pipe = pipeline()
    if warm:
        saved_layers(tmp_path / "start.safetensors", layers_of(pipe.unet))
    adapter = WarmLoRA(str(tmp_path / "start.safetensors")) if warm else LoRA(rank=2, targets=["to_q", "proj_in"])
    adapter.attach(pipe.unet)
    written = set()
    for number in range(10):
        adapter.save(pipe, tmp_path / str(number))
        written.add((tmp_path / str(number) / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(written) == 1


def test_a_lora_of_text_encoders_too_is_not_trained_in_part(tmp_path):
    texts = {f"text_encoder.fc1.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    path = saved_layers(tmp_path / "a.safetensors", layers_of(unet()), extra=texts)
    with pytest.raises(
        Refusal, match=r"changes other networks \(2 weights, first text_encoder.fc1.lora_A.weight\)"
    ) as it:
        WarmLoRA(path).attach(unet())
    assert "or save that of the unet alone with save_lora_weights" in str(it.value)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("layout", ["kohya", "diffusers' names", "compiled", "peft"])
@pytest.mark.parametrize("dora", [False, True])
def test_a_warm_lora_starts_with_the_whole_file_in_any_layout(tmp_path, layout, dora):
    """With alphas that differ by layer, and with a DoRA's magnitudes."""
    layers = layers_of(unet(), dora=dora and layout != "diffusers' names")
    network, adapter = unet(), WarmLoRA(saved_layers(tmp_path / "a.safetensors", layers, layout))
    adapter.attach(network)
    for name in ("ref", "default"):
        require_put(network, layers, name)
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert {n for n, _ in network.named_parameters() if ".default." not in n} == frozen


def test_the_reference_of_a_warm_lora_drops_nothing_out(tmp_path):
    first = pipeline()
    LoRA(rank=2, dropout=0.5).attach(first.unet)
    trained(first.unet)
    LoRA().save(first, tmp_path)
    network, adapter = unet(), WarmLoRA(str(tmp_path))
    adapter.attach(network)
    network.train()
    with adapter.off(network):
        torch.testing.assert_close(output(network), output(first.unet.eval()))
    assert network.peft_config["default"].lora_dropout == 0.5


def test_what_was_saved_is_loaded_whole_or_not_at_all(tmp_path, monkeypatch):
    pipe = pipeline()
    LoRA(rank=2).attach(pipe.unet)
    LoRA().save(pipe, tmp_path)
    LoRA().load(pipeline(), tmp_path)
    read = diffpo.diffusion.model.lora.read_lora
    monkeypatch.setattr(diffpo.diffusion.model.lora, "read_lora", lambda path, networks: more(read(path, networks)))
    with pytest.raises(RuntimeError, match="32 of 33 layers of a LoRA were loaded; conv_in is the first odd"):
        LoRA().load(pipeline(), tmp_path)


def more(file):
    return replace(file, parts={"unet": {**file.layers, **layers_of(unet(), ("conv_in",))}})
