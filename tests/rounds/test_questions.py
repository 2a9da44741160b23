import pytest
import torch
from letter_judges import Number, bradley_terry, draws, paired

from diffpo.core.refusal import Refusal
from diffpo.rounds.contents import name_content
from diffpo.rounds.judges import FromScorer
from diffpo.rounds.pairings import AllPairs, BestWorst
from diffpo.rounds.questions import Recorded, Recording


def test_nothing_is_asked_twice_in_either_order():
    judge = Recording(bradley_terry(3))
    said = judge(["p"] * 3, ["a", "b", "a"], ["b", "a", "b"])
    assert said.tolist() == pytest.approx([0.731059, 0.268941, 0.731059], abs=1e-6)
    assert judge.asked == 1
    judge(["p", "q"], ["b", "a"], ["a", "b"])
    assert judge.asked == 2


def test_a_judge_that_scores_scores_each_candidate_once():
    calls = []

    class Counting(Number):
        def __call__(self, prompts, candidates):
            calls.extend(candidates)
            return super().__call__(prompts, candidates)

    judge = Recording(FromScorer(Counting()))
    [pair] = paired(BestWorst(), judge, "1", "3", "2")
    assert pair.prob == pytest.approx(0.880797)
    assert calls == ["1", "3", "2"]


@pytest.mark.parametrize("judge", [bradley_terry(4), FromScorer(Number())])
def test_what_was_recorded_gives_the_same_pairs_without_the_judge(judge):
    texts = list("dabc") if judge.scores(["p"], [["1"]]) is None else ["4", "1", "2", "1"]
    heard = Recording(judge)
    pairs = paired(AllPairs(), heard, *texts)
    said = {
        ("p", name_content(texts[i]), name_content(texts[j])): prob for i, j, prob in heard.verdicts_on("p", texts)
    }
    again = paired(AllPairs(), Recorded(said, heard.scored, judge.identity), *texts)
    assert again == pairs
    assert len(pairs) == (6 if texts[0] == "d" else 5)


def test_what_was_not_asked_is_refused():
    silent = Recorded({}, {}, {})
    assert silent(["p"], ["a"], ["a"]).tolist() == [0.5]
    with pytest.raises(Refusal, match="not asked"):
        silent(["p"], ["a"], ["b"])
    partly = Recorded({}, {("p", "a"): 1.0}, {})
    with pytest.raises(Refusal, match="no recorded score"):
        partly.scores(["p"], [["a"], ["b"]])
    assert torch.equal(draws(1).uniform("x"), draws(1).uniform("x"))
