import pytest
import torch

from diffpo.lab.benchmark.ways.bare import Bare
from diffpo.lab.benchmark.ways.case import launched

CPU = torch.device("cpu")


@pytest.mark.parametrize("lora", [False, True])
def test_a_step_is_two_passes_one_of_them_without_gradient(lora):
    case, passes = launched("tiny", lora, 1, CPU), []
    step = Bare(case, case.sizes.pipeline(CPU))
    for network in {step.unet, step.frozen} - {None}:
        network.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    step()
    assert passes == [False, True]


def test_weights_move_with_the_last_micro_batch_of_a_step():
    case = launched("tiny", True, 1, CPU)
    step = Bare(case, case.sizes.pipeline(CPU), accumulate=2)
    moments = step.optimizer.state
    step()
    assert not moments
    step()
    assert len(moments) == len(step.parameters)
