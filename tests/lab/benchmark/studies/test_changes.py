import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn.modules.module import register_module_forward_hook

from diffpo.lab.benchmark.cost.arithmetic import Costs
from diffpo.lab.benchmark.studies.changes import measured_changes, replaced
from diffpo.lab.benchmark.ways.case import launched

FLOPS = Costs(vae=2.0, text=0.0, reference=2.0, policy=4.0, optimizer=0.0)


@pytest.fixture(scope="module")
def gains():
    """Gains where time is the number of passes through UNets and VAE."""
    passes = []
    counts = register_module_forward_hook(
        lambda module, *_: passes.append(1) if isinstance(module, UNet2DConditionModel) else None
    )
    encode = AutoencoderKL.encode

    def counted(*args):
        passes.append(1)
        return encode(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoencoderKL, "encode", counted)
        case = launched("tiny", True, 1, torch.device("cpu"))
        changes, seconds = measured_changes(case, FLOPS, 1, 0, lambda: float(len(passes)), compile_too=False)
    counts.remove()
    return {change.name: (change.by_flops, change.by_time(seconds), change.gain(seconds)) for change in changes}


def test_what_is_left_out_gains_what_the_parts_say(gains):
    assert gains["latents from files"] == (8 / 6, 3 / 2, 3 / 2)
    assert gains["reference errors remembered"] == (8 / 6, 3 / 2, 3 / 2)
    assert gains["text states from files"] == (1.0, 1.0, 1.0)


def test_a_change_that_is_undone_is_measured_the_other_way_round(gains):
    assert gains["one policy pass for both sides"] == (1.0, 1.0, 4 / 3)


def test_changes_that_save_no_pass_are_predicted_to_gain_nothing_by_flops(gains):
    for name in ("channels last", "fused optimizer", "attention in one kernel", "nothing read back"):
        assert gains[name] == (1.0, 1.0, 1.0)


def test_gradients_of_frozen_weights_are_part_of_the_arithmetic(gains):
    by_flops, _, _ = gains["no gradients of frozen weights"]
    assert 1.05 < by_flops < 1.35


def test_a_method_is_replaced_for_a_while():
    value = [3, 1, 2]

    class Owner:
        def method(self):
            return value

    owner = Owner()
    with replaced(owner, "method", lambda: 4):
        assert owner.method() == 4
    assert owner.method() == value
