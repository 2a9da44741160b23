import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.modules.module import register_module_forward_hook

from diffpo.core.objective import Objective, Step
from diffpo.core.refusal import Refusal
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.lab.benchmark.cost.guard import check, read_ratios, record_ratios
from diffpo.lab.benchmark.studies.comparison import encoded_against_bare
from diffpo.lab.benchmark.ways.case import launched

ASSET = Path(__file__).parents[4] / "assets" / "benchmark.json"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    record_ratios(tmp_path / "ratios.json", ("full", "lora"), {"full": 1.01, "lora": 1.03}.__getitem__)
    return tmp_path / "ratios.json"


class Twice(Objective):
    """The same loss, after the same work was done for nothing."""

    def __call__(self, policy, reference, batch, draws) -> Step:
        once = DenoisingPreference()
        once(policy, reference, batch, draws)
        return once(policy, reference, batch, draws)


def passes_against_bare(objective: Objective) -> float:
    """The ratio where time is the number of passes through a UNet."""
    passes = []
    count = register_module_forward_hook(
        lambda module, *_: passes.append(1) if isinstance(module, UNet2DConditionModel) else None
    )
    try:
        case = launched("tiny", False, 1, torch.device("cpu"))
        return encoded_against_bare(case, 1, 0, lambda: float(len(passes)), objective)
    finally:
        count.remove()


def test_a_loop_that_does_its_work_twice_is_caught(stored):
    with pytest.raises(Refusal, match="full: a step takes 2.000 times as long"):
        check(stored, lambda case: passes_against_bare(Twice()))


def test_the_loop_as_it_is_passes(stored):
    assert check(stored, lambda case: passes_against_bare(DenoisingPreference())) == {"full": 1.0, "lora": 1.0}


def test_a_tenth_is_tolerated_and_no_more(stored):
    check(stored, {"full": 1.01 * 1.099, "lora": 1.0}.__getitem__)
    with pytest.raises(Refusal, match="more than 10% slower"):
        check(stored, {"full": 1.01 * 1.101, "lora": 1.0}.__getitem__)


def test_a_case_that_fails_is_measured_once_more(stored):
    readings = iter([3.0, 1.0, 1.0])
    assert check(stored, lambda case: next(readings)) == {"full": 1.0, "lora": 1.0}
    readings = iter([1.0, 3.0, 3.0])
    with pytest.raises(Refusal, match="lora: a step takes 3.000"):
        check(stored, lambda case: next(readings))


def test_only_ratios_are_stored(stored):
    assert json.loads(stored.read_text()) == {"ratio_to_bare_loop": {"full": 1.01, "lora": 1.03}}


def test_the_stored_ratios_are_within_reach_of_the_bare_loop():
    assert all(0.9 < value < 1.1 for value in read_ratios(ASSET).values())
