import numpy as np
import pytest

from diffpo.annotators.captioners.roles import Strength
from diffpo.annotators.captioners.words import DropWords, ReplaceWords, SwapWords, choose_places, strip_punctuation
from diffpo.core.refusal import Refusal

TEXT = "a large red circle, on the left side"
GROUPS = (("red", "blue", "green"), ("left", "right"))


@pytest.mark.parametrize("perturber", [DropWords(), SwapWords(), ReplaceWords(groups=GROUPS)], ids=str)
def test_a_seed_says_the_same_whatever_else_is_in_the_batch(perturber):
    several = perturber([TEXT, "b c d", TEXT], Strength.strong, [1, 2, 3])
    assert several[2:] == perturber([TEXT], Strength.strong, [3])
    assert len({perturber([TEXT], Strength.strong, [seed])[0] for seed in range(20)}) > 1


def test_the_strength_decides_how_many_words_are_left_out():
    left = [len(DropWords((0.25, 0.5, 1.0))([TEXT], strength, [0])[0].split()) for strength in Strength]
    assert left == [6, 4, 1]


def test_words_that_are_left_keep_their_order():
    left = iter(DropWords()([TEXT], Strength.strong, [5])[0].split())
    words = iter(TEXT.split())
    assert all(any(word == kept for word in words) for kept in left)


def test_swapping_keeps_all_words():
    assert sorted(SwapWords()([TEXT], Strength.strong, [0])[0].split()) == sorted(TEXT.split())
    assert SwapWords((1.0, 1.0, 1.0))(["a b"], Strength.weak, [0]) == ["b a"]


def test_a_word_gives_way_to_another_of_its_group_and_keeps_its_punctuation():
    replace = ReplaceWords((0.0, 0.5, 1.0), (("circle", "cross"), ("left", "right")))
    assert replace([TEXT], Strength.strong, [0]) == ["a large red cross, on the right side"]
    assert replace([TEXT], Strength.weak, [0]) == [TEXT]
    assert replace(["A Circle"], Strength.strong, [0]) == ["A cross"]
    assert replace(["nothing of it", ""], Strength.strong, [0, 1]) == ["nothing of it", ""]


def test_shares_are_rounded_up():
    rng = np.random.default_rng(0)
    assert [len(choose_places(range(n), 0.3, rng)) for n in (0, 1, 3, 10)] == [0, 1, 1, 3]
    assert sorted(choose_places([2, 5], 1.0, rng)) == [2, 5]


def test_bare_words():
    assert [strip_punctuation(word) for word in ('"red,"', "x-ray.", "--")] == ["red", "x-ray", ""]


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(Refusal, match="DropWords needs three shares in"):
        DropWords((0.1, 0.2, 1.5))
    with pytest.raises(Refusal, match="ReplaceWords has 'red' more than once"):
        ReplaceWords(groups=(("red", "blue"), ("Red", "wine")))
    with pytest.raises(Refusal, match="groups of two words or more"):
        ReplaceWords(groups=(("red",),))
    with pytest.raises(Refusal, match="groups of two words or more"):
        ReplaceWords()
