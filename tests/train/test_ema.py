import torch
from diffusers.training_utils import EMAModel
from torch import nn

from diffpo.train.ema import EmaWeights


def averaged(kind: type[EMAModel]) -> tuple[EMAModel, nn.Parameter]:
    """Two steps: the first takes the weight as it is, 1, the second moves by 1 - 2 / 11."""
    weight = nn.Parameter(torch.zeros(1))
    average = kind([weight], decay=0.999)
    for value in (1.0, 12.0):
        weight.data.fill_(value)
        average.step([weight])
    return average, weight


def test_it_is_the_average_of_diffusers_bitwise():
    mine, theirs = averaged(EmaWeights)[0].state_dict(), averaged(EMAModel)[0].state_dict()
    assert mine == theirs
    assert mine["shadow_params"][0].item() == 10.0


def test_it_goes_on_where_it_was_stored():
    average, weight = averaged(EmaWeights)
    resumed = EmaWeights([nn.Parameter(torch.zeros(1))], decay=0.999)
    resumed.load_state_dict(average.state_dict())
    for each in (average, resumed):
        each.step([weight])
    assert torch.equal(resumed.shadow_params[0], average.shadow_params[0])
