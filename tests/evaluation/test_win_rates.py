import numpy as np
import pytest
import torch

import diffpo
from diffpo.core.refusal import Refusal
from diffpo.evaluation.win_rates import (
    bootstrap_interval,
    compare_pairs,
    cut_short,
    format_table,
    list_versions,
    summarize_pictures,
    win_rate,
)


def scores(prompts: int = 30, pictures: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(prompts, pictures))


def test_identical_models_are_exactly_even():
    even = win_rate(scores(), scores())
    assert (even.rate, even.low, even.high) == (0.5, 0.5, 0.5)


def test_ties_count_half():
    assert win_rate(np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [3.0, 0.0]])).rate == 0.5
    assert win_rate(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])).rate == 0.75


def test_swapping_models_mirrors_rate_and_interval():
    one, other = win_rate(scores(), scores(seed=1)), win_rate(scores(seed=1), scores())
    assert one.rate + other.rate == pytest.approx(1)
    assert one.low + other.high == pytest.approx(1)
    assert one.high + other.low == pytest.approx(1)


def test_all_wins_leave_no_doubt():
    won = win_rate(scores() + 10, scores())
    assert (won.rate, won.low, won.high) == (1.0, 1.0, 1.0)


def test_two_prompts_worked_by_hand():
    """Resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4."""
    ours, theirs = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    wide, narrow = win_rate(ours, theirs), win_rate(ours, theirs, level=0.4)
    assert (wide.low, wide.rate, wide.high) == (0.0, 0.5, 1.0)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_interval_holds_the_rate_and_grows_with_the_level():
    bounds = [win_rate(scores(), scores(seed=1), level=level) for level in (0.5, 0.8, 0.95, 0.99)]
    assert all(bound.low <= bound.rate <= bound.high for bound in bounds)
    assert [bound.low for bound in bounds] == sorted((bound.low for bound in bounds), reverse=True)
    assert [bound.high for bound in bounds] == sorted(bound.high for bound in bounds)


def test_more_prompts_narrow_the_interval():
    few, many = (win_rate(scores(n), scores(n, seed=1)) for n in (20, 500))
    assert many.high - many.low < few.high - few.low


def test_pictures_of_a_prompt_are_resampled_together():
    """Copies of a picture say nothing new, so they do not narrow the interval."""
    ours, theirs = scores(pictures=1), scores(pictures=1, seed=1)
    assert win_rate(ours.repeat(5, axis=1), theirs.repeat(5, axis=1)) == win_rate(ours, theirs)


def test_versions_name_what_ran():
    build = torch.__version__.split("+")[0]  # some packages name their build
    assert list_versions()["torch"].split("+")[0] == build
    assert list_versions()["diffpo"] == diffpo.__version__
    assert {"diffusers", "transformers", "numpy"} <= list_versions().keys()


def test_an_unreadable_picture_takes_its_comparison_out():
    ours, theirs = np.array([[1.0, 1.0], [0.0, np.nan]]), np.array([[0.0, np.nan], [1.0, 0.0]])
    assert win_rate(ours, theirs).rate == 0.5
    assert win_rate(ours[:1], theirs[:1]).rate == 1.0
    with pytest.raises(Refusal, match="nothing to compare"):
        win_rate(ours, np.full((2, 2), np.nan))


def test_a_prompt_counts_once_however_many_of_its_pictures_can_be_read():
    ours, theirs = np.array([[1.0, np.nan], [0.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    assert win_rate(ours, theirs).rate == 0.5


def test_an_interval_holds_the_mean_and_narrows_with_more_prompts():
    few, many = np.random.default_rng(0).normal(size=20), np.random.default_rng(0).normal(size=2000)
    for values in (few, many):
        low, high = bootstrap_interval(values)
        assert low < values.mean() < high
    assert np.subtract(*bootstrap_interval(many)[::-1]) < 0.2 * np.subtract(*bootstrap_interval(few)[::-1])


NUMBERS = {
    "base": {"a": np.array([[1.0, 2.0], [3.0, np.nan]]), "b": np.array([[0.0, 0.0], [0.0, 0.0]])},
    "tuned": {"a": np.array([[2.0, 1.0], [4.0, 9.0]]), "b": np.array([[0.0, 0.0], [1.0, 0.0]])},
}


def test_a_summary_leaves_out_what_could_not_be_read_and_tells_scorers_from_aspects():
    assert summarize_pictures(NUMBERS["base"], ["a"]) == {"b": 0.0, "scores": {"a": {"mean": 2.0, "median": 2.0}}}


def test_models_are_compared_by_every_scorer():
    rates = {(pair["a"], pair["b"], pair["metric"]): pair["win_rate"] for pair in compare_pairs(NUMBERS, ["a", "b"])}
    assert rates == {("tuned", "base", "a"): 0.75, ("tuned", "base", "b"): 0.625}


def test_the_table_has_a_part_for_each_scorer_and_one_for_the_rest():
    scorers = ["a", "b"]
    models = {name: summarize_pictures(numbers, scorers) | {"diversity": 0.5} for name, numbers in NUMBERS.items()}
    lines = format_table(
        {"scorers": dict.fromkeys(scorers), "models": models, "pairs": compare_pairs(NUMBERS, scorers)}
    ).split("\n")
    assert [line.split() for line in lines[:3]] == [
        ["a", "mean", "median", "win", "rate", "over", "base"],
        ["base", "2.0000", "2.0000", "-"],
        ["tuned", "4.0000", "3.0000", "75.0%", "[50.0%,", "100.0%]"],
    ]
    assert [line.split() for line in lines[-3:]] == [["diversity"], ["base", "0.500"], ["tuned", "0.500"]]
    assert max(map(len, lines)) < 80


def test_scorers_that_did_not_read_all_of_the_prompts_are_named():
    report = {"n_prompts": 9, "scorers": {"short": {"cut": 4}, "long": {"cut": 0}}}
    [told] = cut_short(report)
    assert told.startswith("short cuts 4 of 9 prompts, which are longer than it reads")
