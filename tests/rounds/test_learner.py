import pytest
import yaml

from diffpo.rounds.learner import of_the_loop, without_length


@pytest.mark.parametrize(
    ("key", "is_so"),
    [("judge", True), ("judge.temperature", True), ("seed", True), ("judges", False), ("fit.seed", False)],
)
def test_settings_of_the_loop_are_told_by_their_whole_name(key, is_so):
    assert of_the_loop(key) == is_so


def test_more_rounds_are_the_same_config_and_more_answers_another():
    few, many, other = (
        yaml.safe_dump({"rounds": {"rounds": n, "k": k}, "seed": 1}) for n, k in [(2, 4), (3, 4), (2, 5)]
    )
    assert without_length(few) == without_length(many) != without_length(other)
    assert yaml.safe_load(without_length(few)) == {"rounds": {"k": 4}, "seed": 1}
    assert without_length("") == ""
