import copy
from typing import Any

import pytest
import torch
from torch import nn

from diffpo.lab.benchmark.cost.counted import (
    BLOCK,
    FOREACH,
    FUSED,
    UNCOUNTABLE,
    EightBit,
    Peak,
    count_peak,
    counted,
    without_numbers,
)
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.ours import ENCODED, REMEMBERED

CASE = Case("tiny", False, 1, FUSED)


def megabytes(n: int) -> torch.Tensor:
    return torch.empty(n, 10**6, dtype=torch.uint8)


def test_the_peak_is_of_what_lives_at_once():
    with without_numbers(), Peak() as peak:
        first = megabytes(3)
        second = megabytes(2)
        del first
        third = megabytes(1)
        assert (peak.alive, peak.peak) == (3 * 10**6, 5 * 10**6)
        del second, third
    assert peak.alive == 0


def test_a_view_takes_nothing():
    with without_numbers(), Peak() as peak:
        whole = megabytes(2)
        parts = whole.unbind()
        del whole
        assert (peak.alive, peak.peak, len(parts)) == (2 * 10**6, 2 * 10**6, 2)


def test_a_reading_starts_the_next_step():
    with without_numbers(), Peak() as peak:
        kept = megabytes(1)
        megabytes(4)
        assert peak.since().peak == 5 * 10**6
        assert peak.since().peak == 10**6 == kept.numel()


def test_activations_live_until_the_backward_pass():
    with without_numbers(), Peak() as peak:
        x = torch.empty(1000, requires_grad=True)
        loss = x.exp().exp().sum()
        assert peak.alive == 3 * 4000 + 4
        loss.backward()
        del loss
        assert peak.alive == 2 * 4000  # x and its gradient


def test_norms_are_in_fp32_under_mixed_precision():
    with without_numbers():
        norm, x = nn.GroupNorm(1, 4, dtype=torch.bfloat16), torch.empty(1, 4, 2, dtype=torch.bfloat16)
        assert norm(x).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert norm.float()(x).dtype == torch.float32


def test_a_copied_network_stays_in_the_mode_of_the_first():
    with without_numbers():
        network: Any = nn.Linear(2, 2)
        assert copy.deepcopy(network).weight.fake_mode is network.weight.fake_mode


def test_between_steps_weights_moments_and_reference_are_kept():
    weights = 4 * sum(p.numel() for p in CASE.sizes.pipeline(torch.device("meta")).unet.parameters())
    kept, batch = counted(ENCODED, CASE).kept, 54_000  # bytes of latents, text states, times of the path and the like
    assert 4 * weights <= kept < 4 * weights + batch
    assert counted(REMEMBERED, CASE).kept == pytest.approx(kept - weights, abs=2000)


@pytest.mark.parametrize(("optimizer", "copies"), [(FOREACH, 1), (FUSED, 0)])
def test_an_optimizer_for_all_parameters_at_once_takes_a_copy_of_them_unless_it_is_fused(optimizer, copies):
    with without_numbers():
        weights = [nn.Parameter(torch.empty(1000)) for _ in range(5)]
        step = optimizer(weights).step
        with Peak() as peak:
            for weight in weights:
                weight.grad = torch.empty(1000)
            step()  # makes the moments
            peak.since()
            step()
            found = peak.since()
    assert found.peak - found.kept == pytest.approx(copies * 5 * 4000, abs=200)


def test_eight_bit_moments_take_a_byte_and_a_scale_per_block():
    large, small = nn.Parameter(torch.zeros(100 * BLOCK)), nn.Parameter(torch.zeros(10))
    optimizer = EightBit([large, small])
    optimizer.step()
    assert [m.numel() for m in optimizer.state[large]["moments"]] == [100 * BLOCK + 400] * 2
    assert [m.numel() for m in optimizer.state[small]["moments"]] == [40] * 2


def test_a_piece_of_work_is_counted_on_a_network_with_numbers_and_leaves_them():
    network = torch.nn.Linear(1000, 1000)
    before = network.weight.detach().clone()
    peak = count_peak(lambda: network(torch.ones(50, 1000)).square().mean().backward())
    assert 4 * 1000 * 1000 <= peak <= 2 * 4 * 1000 * 1000  # the gradient, and what the pass kept
    assert torch.equal(network.weight, before)


def test_sizes_that_depend_on_numbers_cannot_be_counted():
    with pytest.raises(UNCOUNTABLE):
        count_peak(lambda: torch.ones(3)[torch.ones(3) > 0])
    with pytest.raises(UNCOUNTABLE):
        count_peak(lambda: torch.ones(3).sum().item())
