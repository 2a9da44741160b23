import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.modules.module import register_module_forward_hook

from diffpo.lab.benchmark.studies.comparison import PREDICTED, Comparison, compare
from diffpo.lab.benchmark.ways.bare import BARE
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.ours import ENCODED, PIXELS, REMEMBERED
from diffpo.lab.benchmark.ways.published import OPTIMIZER, PUBLISHED

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found() -> Comparison:
    """A comparison where time is the number of passes through a UNet."""
    passes = []
    count = register_module_forward_hook(
        lambda module, *_: passes.append(1) if isinstance(module, UNet2DConditionModel) else None
    )
    try:
        return compare(launched("tiny", False, 1, CPU), 2, 1, 1, lambda: float(len(passes)))
    finally:
        count.remove()


def test_every_way_is_timed_in_every_round(found):
    assert {PUBLISHED, PIXELS, ENCODED, REMEMBERED, BARE} < found.seconds.keys()
    assert {len(taken) for taken in found.seconds.values()} == {2}


def test_gains_are_ratios_to_the_published_way(found):
    assert [found.gain(way) for way in (PIXELS, ENCODED, REMEMBERED)] == [1.0, 1.0, 2.0]
    assert found.against_bare(REMEMBERED) == 0.5


def test_what_is_predicted_from_the_parts_is_what_is_measured(found):
    assert [PREDICTED[way](found.costs) for way in (PIXELS, ENCODED, REMEMBERED)] == [1.0, 1.0, 2.0]


def test_micro_batches_share_the_optimizer():
    parts = {name: [8.0] for name in ("VAE", "text encoders", "reference", "policy", OPTIMIZER)}
    assert Comparison(launched("tiny", False, 1, CPU), 4, parts).costs.optimizer == 2.0
