import numpy as np
import pytest
from scipy.stats import chisquare

from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.people import COMMON, VOTERS, SceneTaste, gather_raters, hold_vote, open_traits, share_right
from diffpo.lab.scenes.scenes import Facts, Objects, Thing, render

FACTS = Facts((Objects("red", "circle"), Objects("blue", "square")), None, "gray")


def seen(vividness: float = 0.8, extent: float = 0.17, x: float = 0.25, shape: str = "circle"):
    things = [Thing("red", shape, x, 0.5, extent, vividness), Thing("blue", "square", 0.75, 0.5, extent, vividness)]
    return measure(render(things, "gray"))


def test_one_fact_outweighs_all_style():
    worst, best = seen(0.55, 0.135, 0.4), seen(1.0, 0.21, 0.22, "triangle")
    assert share_right(best, FACTS) < share_right(worst, FACTS) == 1
    for rater in gather_raters():
        gap = rater.taste.utility(worst, FACTS) - rater.taste.utility(best, FACTS)
        assert gap > -0.25, "three facts of four and all style beat four facts by a little at most"
    assert COMMON.utility(worst, FACTS) > -1


def test_taste_likes_vivid_large_and_spaced_where_the_caption_leaves_it_open():
    plain = COMMON.utility(seen(0.6, 0.15, 0.4), FACTS)
    assert COMMON.utility(seen(0.95, 0.15, 0.4), FACTS) > plain
    assert COMMON.utility(seen(0.6, 0.19, 0.3), FACTS) > COMMON.utility(seen(0.6, 0.15, 0.3), FACTS)
    assert COMMON.utility(seen(0.6, 0.15, 0.2), FACTS) > plain
    sized = Facts((Objects("red", "circle", size="small"), Objects("blue", "square", size="small")), None, "gray")
    small, large = seen(0.8, 0.145, 0.3), seen(0.8, 0.21, 0.3)
    assert open_traits(small, sized)[2] == open_traits(large, sized)[2] == 0.5


def test_a_picture_without_clean_objects_loses_to_the_worst():
    empty = measure(render([], "gray"))
    assert COMMON.utility(empty, FACTS) == -1
    assert COMMON.utility(seen(0.55, 0.135, 0.4), Facts((Objects("green", "cross"),), None, "white")) > -1


def test_votes_come_as_their_probabilities_say():
    first, second = seen(0.75), seen(0.7, 0.18)
    raters, rng = gather_raters(), np.random.default_rng(0)
    ballots = [hold_vote(raters, (first, second), FACTS, rng) for _ in range(2000)]
    assert {len(set(ballot.voters)) for ballot in ballots} == {VOTERS}
    votes = [(who, vote) for ballot in ballots for who, vote in zip(ballot.voters, ballot.votes, strict=True)]
    for who, rater in enumerate(raters):
        chances = rater.chances(*(rater.taste.utility(one, FACTS) for one in (first, second)))
        expected = np.array([*chances, 1 - sum(chances)])
        counted = np.array(
            [sum(1 for voter, vote in votes if voter == who and vote == value) for value in (1, 0, 0.5)]
        )
        assert chisquare(counted, expected * counted.sum()).pvalue > 1e-4
    assert np.mean([ballot.soft for ballot in ballots]) == pytest.approx(ballots[0].chance, abs=0.02)


def test_swapping_two_pictures_mirrors_the_chance():
    first, second = seen(0.9), seen(0.6)
    rng = np.random.default_rng(1)
    one = hold_vote(gather_raters(), (first, second), FACTS, rng).chance
    other = hold_vote(gather_raters(), (second, first), FACTS, rng).chance
    assert one + other == pytest.approx(1)
    assert one > 0.6


def test_the_majority_is_of_the_votes():
    rng = np.random.default_rng(2)
    for _ in range(50):
        ballot = hold_vote(gather_raters(), (seen(0.8), seen(0.78)), FACTS, rng)
        assert ballot.majority == (0.5 if ballot.soft == 0.5 else float(ballot.soft > 0.5))


def test_people_differ():
    raters = gather_raters()
    assert len({rater.taste for rater in raters}) == len(raters)
    assert all(rater.taste.vivid + rater.taste.spaced + rater.taste.large <= 0.5 + 1e-9 for rater in raters)
    assert isinstance(raters[0].taste, SceneTaste)
