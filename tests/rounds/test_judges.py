from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.evaluation.scorer import Scorer
from diffpo.rounds.judges import Averaged, BothOrders, Drawn, Flipped, FromScorer
from diffpo.rounds.roles import Judge


@dataclass(frozen=True)
class Length(Scorer):
    """Counts letters; a text of "?" has no score."""

    name, model_id, version = "length", "none", "1"  # pyright: ignore[reportAssignmentType]

    def __call__(self, prompts, candidates):
        assert len(prompts) == len(candidates)
        return torch.tensor([float("nan") if text == "?" else float(len(text)) for text in candidates])


@dataclass(frozen=True)
class First(Judge):
    """Says that the first candidate wins with this probability, whatever it is."""

    sure: float = 0.9

    @property
    def identity(self):
        return {"judge": "first", "sure": self.sure}

    def __call__(self, prompts: Sequence, first: Sequence, second: Sequence):
        return torch.full((len(prompts),), self.sure, dtype=torch.float64)


PROMPTS = [f"prompt {i}" for i in range(200)]
SHORT, LONG = ["a"] * 200, ["bb"] * 200


def test_a_scorer_judges_by_the_difference_of_its_scores():
    judge = FromScorer(Length(), temperature=2.0)
    said = judge(["p", "q", "r"], ["aaa", "a", "b"], ["a", "a", "bbbbb"])
    assert torch.allclose(said, torch.tensor([0.731059, 0.5, 0.119203], dtype=torch.float64), atol=1e-6)


def test_a_scorer_of_temperature_zero_is_certain_and_ties_equal_scores():
    said = FromScorer(Length(), temperature=0.0)(["p", "q", "r"], ["aa", "a", "b"], ["a", "b", "bb"])
    assert said.tolist() == [1.0, 0.5, 0.0]


def test_a_scorer_fills_the_matrix_by_one_number_a_candidate():
    judge = FromScorer(Length(), temperature=1.0)
    candidates = [["a", "bbb"], ["aa", "b"], ["aaaa", "bb"]]
    assert torch.allclose(judge.wins(["p", "q"], candidates).float(), Judge.wins(judge, ["p", "q"], candidates))
    assert judge.scores(["p", "q"], candidates).tolist() == [[1, 3], [2, 1], [4, 2]]


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(Refusal, match="length gives no finite number to 1 of 4"):
        FromScorer(Length()).wins(["p", "q"], [["a", "?"], ["b", "c"]])


def test_both_orders_cancel_what_goes_by_the_place():
    assert BothOrders(First())(["p"], ["a"], ["b"]).item() == pytest.approx(0.5)
    straight = FromScorer(Length())
    assert BothOrders(straight)(["p"], ["aa"], ["b"]).item() == pytest.approx(straight(["p"], ["aa"], ["b"]).item())


def test_an_average_weighs_verdicts_not_scores():
    certain, none = FromScorer(Length(), temperature=0.0), First(0.5)
    assert Averaged([certain, none])(["p"], ["aa"], ["b"]).item() == pytest.approx(0.75)
    assert Averaged([certain, none], [0.2, 0.8])(["p"], ["aa"], ["b"]).item() == pytest.approx(0.6)
    wins = Averaged([certain, none], [0.2, 0.8]).wins(["p"], [["aa"], ["b"]])
    assert torch.allclose(wins[..., 0], torch.tensor([[0.5, 0.6], [0.4, 0.5]], dtype=wins.dtype))
    for wrong in ([0.5], [0.5, 0.6], [1.0, 0.0]):
        with pytest.raises(Refusal, match="add up to 1"):
            Averaged([certain, none], wrong)
    with pytest.raises(Refusal, match="got 0"):
        Averaged([])


@pytest.mark.parametrize(("make", "share"), [(lambda judge: Flipped(judge, 0.25), 0.25), (Drawn, 0.268941)])
def test_noise_is_drawn_once_for_a_question_in_either_order(make, share):
    judge = make(FromScorer(Length(), temperature=0.0 if share == 0.25 else 1.0))
    said = judge(PROMPTS, SHORT, LONG).double()
    short_wins = (said > 0.5).double().mean().item()
    assert abs(short_wins - share) < 3 * (share * (1 - share) / 200) ** 0.5
    assert torch.equal(judge(PROMPTS, LONG, SHORT).double(), 1 - said)
    assert torch.equal(judge(PROMPTS[5:9], SHORT[5:9], LONG[5:9]).double(), said[5:9])


def test_noise_of_another_seed_is_another_and_ties_stay():
    judge = FromScorer(Length(), temperature=0.0)
    one, other = (Flipped(judge, 0.5, seed)(PROMPTS, SHORT, LONG) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert Drawn(judge)(["p"], ["a"], ["b"]).item() == 0.5
    with pytest.raises(Refusal, match="rate"):
        Flipped(judge, 0.6)


def test_identities_tell_all_that_verdicts_depend_on():
    judge = BothOrders(Flipped(FromScorer(Length(), 2.0), 0.1, seed=3))
    assert judge.identity == {
        "judge": "BothOrders",
        "asks": {
            "judge": "Flipped",
            "rate": 0.1,
            "seed": 3,
            "asks": {"judge": "FromScorer", "temperature": 2.0, **Length().identity},
        },
    }
