from pathlib import Path

import pytest
import torch
from tiny import image_batch
from torch import nn

from diffpo.core.draws import Draws
from diffpo.core.references import NOISE, SCORES, FrozenCopy
from diffpo.lab.benchmark.studies.inversion import (
    Found,
    PartlyRemembered,
    Turn,
    nothing_but_zeros,
    of_size,
    of_turn,
    time_ways,
)
from diffpo.lab.benchmark.studies.inversion_ways import DPO, WAYS
from diffpo.lab.benchmark.ways.case import launched

CASE = launched("tiny", False, 2, torch.device("cpu"))
FORWARD, STEP = {2: [1.5, 1.5], 4: [2.0, 2.0]}, {4: [6.0, 6.0]}


def found(**turns: list[Turn]) -> Found:
    named = {"plain": DPO, "inverted": "InPO"}
    return Found(CASE, {named[name]: taken for name, taken in turns.items()}, FORWARD, STEP)


def test_counted_rows_are_per_compared_side():
    assert found(inverted=[Turn(12.0, (4, 4, 4)), Turn(14.0, (4, 2, 4))]).counted("InPO") == (12 + 10) / 8


def test_one_disturbed_round_does_not_move_what_is_measured():
    """Calls take 8, 12 and 9.5 seconds; all turns take a tenth more, and one was disturbed."""
    walks = [Turn(1.1 * 12, (4, 4, 4)), Turn(99.0, (4, 4, 4)), Turn(1.1 * 9.5, (4, 2))]
    taken = found(plain=[Turn(8.8, (4,))] * 3, inverted=walks)
    assert taken.seconds(DPO) == pytest.approx(8.8 / 4)
    assert taken.measured("InPO") == pytest.approx((12 + 12 + 9.5) / 3 / 8)


def test_predictions_from_rows_and_from_calls_by_hand():
    """A row in a whole batch costs 0.5 and 1.5; alone with its pair's other side, 0.75."""
    taken = found(plain=[Turn(8.0, (4,))], inverted=[Turn(9.0, (4, 2, 2))])
    assert taken.by_rows("InPO") == pytest.approx((4 + 6) / 8)
    assert taken.by_calls("InPO") == pytest.approx((2 + 1.5 + 1.5 + 6) / 8)
    assert taken.by_rows(DPO) == taken.by_calls(DPO) == 1


def test_turns_of_a_round_have_the_same_draws():
    turns = [of_turn(Draws(0, (epoch,) * 2, (0, 1)), 3) for epoch in range(6)]
    assert [turn for turn, _ in turns] == [0, 1, 2] * 2
    assert [drawn.epoch for _, drawn in turns] == [(0, 0)] * 3 + [(1, 1)] * 3


def test_what_is_not_remembered_in_a_turn_is_asked(tmp_path: Path):
    asked, image = [], image_batch(2)

    def score(network: nn.Module) -> torch.Tensor:
        asked.append(network)
        return torch.ones(2, 2)

    known = nothing_but_zeros(tmp_path, 1, image)
    reference = PartlyRemembered(FrozenCopy(nn.Linear(1, 1)), known, [(), (NOISE,), (NOISE, SCORES)])
    for turn, (noise, scores) in enumerate([(1, 1), (0, 1), (0, 0)]):
        reference.at(Draws(0, (turn,) * 2, (0, 1)))
        assert (reference(score, NOISE).max(), reference(score, SCORES).max()) == (noise, scores)
    assert len(asked) == 3


def test_a_batch_of_another_size_repeats_its_pairs():
    image = image_batch(3)
    larger = of_size(image, 5)
    assert larger.row == (0, 1, 2, 0, 1)
    assert torch.equal(larger.latents[:, 3:], image.latents[:, :2])
    assert of_size(image, 2).latents.shape[:2] == (2, 2)


def test_each_way_makes_the_calls_that_it_is_expected_to():
    ways = [way for way in WAYS if way not in ("SmPO, 5 steps", "InPO, 5 visits")]
    measured = time_ways(CASE, ways, 1, 0, lambda: 0.0)
    counted = {way: measured.counted(way) for way in ways}
    walk = counted["InPO"] - 1
    assert 1 <= walk <= 10
    assert counted == {
        DPO: 1,
        "InPO": 1 + walk,
        "SmPO": 1 + 2 * walk,
        "SmPO, last step refined": 2 + walk,
        "InPO, 10 visits": 2,
        "InPO, noise remembered": 1,
        "InPO, noise and errors remembered": 0,
    }
    sizes = {n for turns in measured.turns.values() for turn in turns for n in turn.calls}
    assert sizes <= measured.forward.keys() == {2, 4, 40}
