from collections.abc import Sequence

import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.rounds.roles import Judge, require_matrix, require_probabilities


class Longer(Judge):
    """The longer text wins with probability 0.8; it counts questions and calls."""

    def __init__(self, sure: float = 0.8):
        self.sure, self.asked, self.calls = sure, 0, 0

    @property
    def identity(self):
        return {"judge": "longer", "sure": self.sure}

    def __call__(self, prompts: Sequence, first: Sequence, second: Sequence):
        self.asked, self.calls = self.asked + len(prompts), self.calls + 1
        both = zip(first, second, strict=True)
        return torch.tensor([0.5 + (self.sure - 0.5) * ((len(x) > len(y)) - (len(x) < len(y))) for x, y in both])


def test_wins_are_filled_by_pairs_asked_once():
    judge = Longer()
    found = judge.wins(["p", "q"], [["a", "bbb"], ["aa", "bb"], ["aaa", "b"]])
    assert torch.allclose(found[..., 0], torch.tensor([[0.5, 0.2, 0.2], [0.8, 0.5, 0.2], [0.8, 0.8, 0.5]]))
    assert torch.allclose(found[..., 1], torch.tensor([[0.5, 0.8, 0.8], [0.2, 0.5, 0.8], [0.2, 0.2, 0.5]]))
    assert (judge.asked, judge.calls) == (6, 1)


def test_one_candidate_or_no_prompt_asks_nothing():
    judge = Longer()
    assert judge.wins(["p"], [["a"]]).tolist() == [[[0.5]]]
    assert judge.wins([], [[], []]).shape == (2, 2, 0)
    assert judge.calls == 0


@pytest.mark.parametrize("said", [float("nan"), 1.2, -0.1])
def test_what_is_no_probability_is_refused(said):
    with pytest.raises(Refusal, match="Longer says .* of 1 of 2 questions"):
        require_probabilities(torch.tensor([0.5, said]), Longer())


def test_a_matrix_that_does_not_add_up_to_one_is_refused():
    lopsided = torch.tensor([[0.5, 0.7], [0.6, 0.5]])[..., None]
    with pytest.raises(Refusal, match="BothOrders"):
        require_matrix(lopsided, Longer())
    whole = torch.tensor([[0.5, 0.4], [0.6, 0.5]])[..., None]
    assert require_matrix(whole, Longer()) is whole
    with pytest.raises(Refusal, match="probability"):
        require_matrix(whole * torch.nan, Longer())
