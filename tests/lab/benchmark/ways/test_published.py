import math

import pytest
import torch

from diffpo.lab.benchmark.cost.arithmetic import Costs
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.published import published

CPU = torch.device("cpu")


def loop(lora: bool, accumulate: int = 1):
    case = launched("tiny", lora, 2, CPU)
    return published(case, case.sizes.pipeline(CPU), accumulate)


@pytest.mark.parametrize("lora", [False, True])
def test_at_first_policy_and_reference_agree(lora):
    step = loop(lora)
    step()
    loss, error, reference, accuracy = step.log
    assert loss == pytest.approx(math.log(2), abs=2e-3)
    assert error == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("lora", [False, True])
def test_weights_move_with_the_last_micro_batch_of_a_step(lora):
    step = loop(lora, accumulate=2)
    before = torch.cat([p.detach().flatten().clone() for p in step.parameters])
    step()
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in step.parameters]))
    step()
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in step.parameters]))


def test_sides_share_time_noise_and_states():
    step, seen = loop(lora=False), []
    step.unet.register_forward_pre_hook(lambda unet, args, kwargs: seen.append(args), with_kwargs=True)
    step.encoded = lambda pixels: torch.zeros(4, 4, 8, 8)
    step()
    for halves in (value.chunk(2) for value in seen[0]):
        assert torch.equal(*halves)


def test_the_reference_is_frozen_and_gets_no_gradient():
    step = loop(lora=False)
    step()
    assert not any(p.requires_grad or p.grad is not None for p in step.reference.parameters())


def test_its_parts_are_those_of_a_step():
    assert Costs.of(dict.fromkeys(loop(lora=True).parts(), 1.0)).pixels == 5
