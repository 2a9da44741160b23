import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.modules.module import register_module_forward_hook

from diffpo.lab.benchmark.ways.alone import WAYS, step_alone
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.ours import REMEMBERED


@pytest.mark.parametrize("way", WAYS)
def test_each_step_lies_between_two_looks_at_the_clock(way):
    passes, looks = [], []

    def clock() -> float:
        looks.append(len(passes))
        return 0.0

    handle = register_module_forward_hook(
        lambda module, *_: passes.append(1) if isinstance(module, UNet2DConditionModel) else None
    )
    try:
        step_alone(way, launched("tiny", False, 1, torch.device("cpu")), 2, clock)
    finally:
        handle.remove()
    each = 1 if way == REMEMBERED else 2
    assert looks == [0, each, each, 2 * each]
