import pytest
import torch
from tiny import pair_logps

from diffpo.core.pair import PairLogps
from diffpo.core.refusal import Refusal


def test_swapped_sides_negate_the_margin():
    pair = pair_logps()
    swapped = PairLogps(pair.policy.flip(0), pair.reference.flip(0), pair.length.flip(0))
    torch.testing.assert_close(swapped.margin, -pair.margin)


def test_a_list_of_three_has_no_margin():
    three = PairLogps(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2))
    with pytest.raises(Refusal, match="A margin lies between 2 candidates, these rows have 3"):
        _ = three.margin
