import pytest

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.rounds.roles import Sampled, Sampler
from diffpo.rounds.samplers import SeveralSamplers
from diffpo.rounds.stages import sample_candidates
from diffpo.rounds.tables import read_candidates


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


class Dying(Named):
    """Answers some of what it is asked, once."""

    def __init__(self, said: str, places: list[int]):
        super().__init__(said)
        self.places: list[int] = places

    def __call__(self, model, prompts, k, draws):
        sides = super().__call__(model, prompts, k, draws)
        flat = [one for side in sides for one in side]
        places, self.places = self.places, []
        if places:
            raise Interrupted("gone", {place: flat[place] for place in places})
        return sides


def test_what_stood_before_one_of_several_samplers_stopped_is_told():
    draws = Draws(0, (0, 0), (3, 8))
    whole = SeveralSamplers([Named("hot"), Named("cold")], [1, 2])(None, ["p", "q"], 3, draws)
    with pytest.raises(Interrupted) as stopped:
        SeveralSamplers([Named("hot"), Dying("cold", [0, 3])], [1, 2])(None, ["p", "q"], 3, draws)
    flat = [one for side in whole for one in side]
    assert stopped.value.said == {place: flat[place] for place in (0, 1, 2, 5)}


def test_a_sampler_that_stops_costs_no_prompt_that_it_has_answered(tmp_path):
    """Both candidates of 12 and of 14 are there, one of 13."""
    prompts, sampler = {12: "p", 13: "q", 14: "r"}, Dying("x", [0, 1, 2, 3, 5])
    made = tmp_path / "whole"
    sample_candidates(made, prompts, Named("x"), lambda: None, 2, 0, 0, "m")
    with pytest.raises(Interrupted):
        sample_candidates(tmp_path / "out", prompts, sampler, lambda: None, 2, 0, 0, "m")
    asked = []

    class Counted(Named):
        def __call__(self, model, prompts, k, draws):
            asked.extend(prompts)
            return super().__call__(model, prompts, k, draws)

    sample_candidates(tmp_path / "out", prompts, Counted("x"), lambda: None, 2, 0, 0, "m")
    assert asked == ["q"]
    assert read_candidates(tmp_path / "out")[0].contents == read_candidates(made)[0].contents


def test_counts_have_to_be_those_of_the_round():
    with pytest.raises(Refusal, match="samples 2 candidates, rounds.k is 3"):
        SeveralSamplers([Named("hot")], [2])(None, ["p"], 3, Draws(0, (0,), (0,)))
    with pytest.raises(Refusal, match="positive count for each of 1 samplers"):
        SeveralSamplers([Named("hot")], [2, 1])
    drawing = Named("drawing")
    drawing.makes = "pictures"
    with pytest.raises(Refusal, match="Some of these samplers"):
        SeveralSamplers([Named("hot"), drawing], [1, 1])
    assert SeveralSamplers([drawing], [1]).makes == "pictures"
