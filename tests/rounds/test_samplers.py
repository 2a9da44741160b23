import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.rounds.roles import Sampled, Sampler
from diffpo.rounds.samplers import SeveralSamplers


class Named(Sampler):
    """Says its name, and what it drew."""

    def __init__(self, said: str):
        self.said = said

    @property
    def identity(self):
        return {"sampler": self.said}

    def __call__(self, model, prompts, k, draws):
        numbers = [draws.integers(f"n/{i}", 10**9).tolist() for i in range(k)]
        return [[Sampled(f"{self.said} {number}") for number in side] for side in numbers]


def test_candidates_of_several_samplers_stand_in_their_order_and_draw_apart():
    draws = Draws(0, (0, 0), (3, 8))
    found = SeveralSamplers([Named("hot"), Named("plain")], [2, 1])(None, ["p", "q"], 3, draws)
    said = [[one.content.split() for one in side] for side in found]
    assert [[name for name, _ in side] for side in said] == [["hot"] * 2, ["hot"] * 2, ["plain"] * 2]
    assert found[:2] == Named("hot")(None, ["p", "q"], 2, draws)
    assert said[0][0][1] != said[2][0][1]
    assert SeveralSamplers([Named("a")], [1]).identity == {
        "sampler": "SeveralSamplers",
        "counts": [1],
        "of": [{"sampler": "a"}],
    }


def test_counts_have_to_be_those_of_the_round():
    with pytest.raises(Refusal, match="samples 2 candidates, rounds.k is 3"):
        SeveralSamplers([Named("hot")], [2])(None, ["p"], 3, Draws(0, (0,), (0,)))
    with pytest.raises(Refusal, match="positive count for each of 1 samplers"):
        SeveralSamplers([Named("hot")], [2, 1])
