import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from sharded import ADAPTER, BEST, KINDS, RUN, nested, step
from started import HELPERS, started
from tiny import trained, unet
from tiny_runs import fit_points, stored
from torch import Tensor

from diffpo.core.references import Ema
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.train.state.training_state import TrainingState


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What `sharded.py` wrote."""
    root = tmp_path_factory.mktemp("sharded")
    sharding = {"ACCELERATE_USE_CPU": "false", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    wrapping = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Sequential"}
    assert started(HELPERS / "sharded.py", root, processes=2, **sharding | wrapping) == [0, 0]
    return root


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_policy_trains_as_one_in_one_piece(root, kind):
    """Losses, gradients, weights and moving references of two steps, each process with half of the pairs."""
    split, plain = load_file(root / f"{kind}.safetensors"), step(KINDS[kind], False, rank=None)
    own = {"losses", "gradient", "reference"}
    assert split.keys() == plain.keys()
    torch.testing.assert_close(split["losses"], plain["losses"], rtol=1e-4, atol=1e-4)
    assert plain["losses"][0] != plain["losses"][1]
    assert (split["gradient"] - plain["gradient"]).norm() < 1e-4 * plain["gradient"].norm()
    torch.testing.assert_close(split["reference"], plain["reference"])
    for name in plain.keys() - own:
        torch.testing.assert_close(split[name], plain[name])


def test_adapters_outside_of_the_wrapped_blocks_are_trained(root):
    """They were not: switched off and on again while gathered, they lost `requires_grad`."""
    state = load_file(root / "adapters.safetensors")
    start = KINDS["adapters"](False)[0].state_dict()
    for layer in ("conv_in", "down_blocks.0.attentions.0.proj_in"):
        name = f"{layer}.lora_B.default.weight"
        assert not torch.equal(state[name], start[name])


def test_stored_weights_are_whole_and_load_into_a_network_in_one_piece(root):
    network = unet()
    TrainingState(Accelerator(), network).load(root / "stored")
    assert torch.equal(flat(network.state_dict()), 2 * flat(unet().state_dict()))


def test_weights_that_are_loaded_are_seen_by_the_next_forward_pass(root):
    seen = json.loads((root / "stored.json").read_text())
    assert seen["changed"] > 1e-3
    assert seen["restored"]


def test_a_moving_average_is_stored_whole_and_restored(root):
    """After its first step diffusers' average is what it averages."""
    assert torch.equal(flat(load_file(root / "averaged.safetensors")), 2 * flat(unet().state_dict()))


@pytest.mark.parametrize(("folder", "adapter"), [("full", None), ("lora", ADAPTER)])
def test_what_a_sharded_run_leaves_is_what_one_process_leaves(root, tmp_path, folder, adapter):
    model = StableDiffusion(str(root / "base"), adapter=adapter).load()
    trained(model.unet)
    model.save(tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    ours, theirs = (load_file(place / file.relative_to(tmp_path)) for place in (tmp_path, root / folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_who_keeps_nothing_gets_nothing(root):
    assert json.loads((root / "stored.json").read_text())["kept"] == 0


def test_a_run_under_fsdp2_is_the_run_of_one_process(root, tmp_path):
    """With momentum, warm-up, clipping, moving averages of policy and reference, and a resume half-way."""
    policy = nested()
    fit_points(tmp_path, policy, reference=Ema(policy, 0.5), **RUN)
    torch.testing.assert_close(flat(load_file(root / "fit.safetensors")), flat(policy.state_dict()))
    torch.testing.assert_close(stored(root / "fit", 4), stored(tmp_path, 4))


def test_the_best_weights_of_a_run_under_fsdp2_are_those_of_one_process(root, tmp_path):
    """The worst judgement is the first, so what a checkpoint held of it is the result of the resumed run."""
    policy = nested()
    fit_points(tmp_path, policy, **BEST)
    torch.testing.assert_close(flat(load_file(root / "best.safetensors")), flat(policy.state_dict()))
    assert json.loads((root / "best" / "best.json").read_text())["step"] == 1
