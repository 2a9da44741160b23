from dataclasses import dataclass, field

import pytest

from diffpo.core.refusal import Refusal
from diffpo.data.pairs import Pairs
from diffpo.data.rows import DropTies, ForTraining, ForValidation, RowMap
from diffpo.train.validation import ValidationSplit


@dataclass(frozen=True, eq=False)
class Opened(Pairs):
    rows: list[RowMap]
    told: tuple

    @property
    def size(self) -> int:
        return 1

    def batches(self, share):
        return []


@dataclass(frozen=True)
class Data:
    """Data that open to what they were told."""

    rows: list[RowMap] = field(default_factory=lambda: [DropTies()])

    def open(self, *told) -> Opened:
        return Opened(self.rows, told)


class AsTheyAre(ValidationSplit):
    def plain(self, data: Data) -> Data:
        return data


def test_a_share_of_the_prompts_is_judged_and_the_rest_trained_on():
    trained, judged = AsTheyAre(share=0.2, every=7, pairs=3).split(Data(), 1, "tokens")
    assert isinstance(trained, Opened)
    assert isinstance(judged.pairs, Opened)
    assert trained.rows == [ForTraining(0.2), DropTies()]
    assert judged.pairs.rows == [ForValidation(0.2), DropTies()]
    assert trained.told == judged.pairs.told == (1, "tokens")
    assert (judged.every, judged.count) == (7, 3)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"every": 0}, {"pairs": 0}])
def test_what_cannot_be_judged_is_refused(wrong):
    with pytest.raises(Refusal, match="validation"):
        AsTheyAre(**wrong)
