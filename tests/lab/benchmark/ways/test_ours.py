from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffpo.core.draws import Draws
from diffpo.core.references import SCORES, FrozenCopy
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.ours import ENCODED, PIXELS, REMEMBERED, AskedOrRemembered, Ours, remembering
from diffpo.lab.benchmark.ways.turns import Turns

CPU = torch.device("cpu")


def draws(epoch: int) -> Draws:
    return Draws(0, (epoch,) * 2, (0, 1))


def test_odd_epochs_are_remembered_and_even_ones_are_asked(tmp_path: Path):
    asked = []

    def score(model: nn.Module) -> torch.Tensor:
        asked.append(model)
        return torch.ones(2, 2)

    frozen = FrozenCopy(nn.Linear(1, 1))
    reference = AskedOrRemembered(frozen, remembering(frozen, 2, tmp_path))
    for epoch in (0, 1, 0, 1, 1):
        reference.at(draws(epoch))
        assert torch.equal(reference(score), torch.ones(2, 2))
    assert len(asked) == 3


def test_with_nobody_to_ask_zeros_are_remembered(tmp_path: Path):
    remembered = remembering(None, 2, tmp_path)
    assert np.array_equal(remembered.known[SCORES], np.zeros((2, 2, 2)))


@pytest.mark.parametrize("lora", [False, True])
def test_remembered_errors_spare_one_of_two_passes(lora, tmp_path: Path):
    case = launched("tiny", lora, 2, CPU)
    ours, passes, found = Ours(case, case.sizes.pipeline(CPU)), [], []
    asked = ours.model.reference()
    for network in {ours.model.unet, asked.model}:
        network.register_forward_hook(lambda *_: passes.append(1))
    turns = Turns(ours.batches(), {"count": lambda: None}, 2, lambda: float(len(passes)))
    ours.train(turns, AskedOrRemembered(asked, remembering(asked, 2, tmp_path)))
    found = {name: taken[-1] for name, taken in turns.seconds.items()}
    assert found == {PIXELS: 2, ENCODED: 2, REMEMBERED: 1, "count": 0}


def test_what_is_encoded_lies_on_the_host_and_needs_no_encoders():
    case = launched("tiny", False, 2, CPU)
    ours = Ours(case, case.sizes.pipeline(CPU))
    encoded = ours.encoded()
    ours.leave_encoders()
    assert {p.device.type for p in ours.encoder.vae.parameters()} == {"meta"}
    assert encoded.mean.shape == (2, 2, 4, 8, 8)
    assert encoded.mean.device == CPU
