import pytest

from diffpo.core.refusal import Refusal
from diffpo.diffusion.annotate.caption_summary import bars, gap, opened_tokenizer, summarize_captions

TOKENIZER = "assets/tiny-sd/tokenizer"


def text(caption):
    return {"caption": caption, "raw": caption, "perturbed_from": None}


def said(raw, retried=0):
    return {"raw": raw, "retried": retried}


def test_the_numbers_by_hand():
    """Three pairs: equal captions, different ones, one missing."""
    texts = dict(enumerate(map(text, ["a b", "a b", "a b c d", "e", None, "f"])))
    answers = {0: said("a b"), 1: said("a b", 1), 2: said(" ", 2), 3: said(None)}
    found = summarize_captions(texts, [answers, {}], None)
    assert {"captions": 5, "empty": 1, "unanswerable": 1, "retried": 2, "fallback": 1}.items() <= found.items()
    assert found["equal"] == 0.5
    assert (found["words"]["chosen"]["mean"], found["words"]["rejected"]["max"]) == (3.0, 2)
    assert "tokens" not in found


def test_tokens_and_what_is_cut_off():
    """The tiny tokenizer stops at 24: two marks and 22 words."""
    fits, long = " ".join(["red"] * 22), "red " * 2500
    found = summarize_captions({0: text(fits), 1: text(long)}, [], opened_tokenizer(TOKENIZER))
    assert (found["limit"], found["truncated"]) == (24, 0.5)
    assert (found["tokens"]["chosen"]["max"], found["tokens"]["rejected"]["max"]) == (24, 2502)


def test_no_pair_with_two_captions_is_an_error():
    with pytest.raises(Refusal, match="None of the 1 pairs got both captions .1 answers were empty, 0 could not"):
        summarize_captions({0: text("a"), 1: text(None)}, [{1: said("")}], None)


def test_a_tokenizer_that_is_none_is_told(tmp_path):
    with pytest.raises(Refusal, match="Cannot load a tokenizer from 'no/such'"):
        opened_tokenizer("no/such")
    with pytest.raises(Refusal, match=str(tmp_path)):
        opened_tokenizer(str(tmp_path))


def test_the_gap_by_hand():
    """Gaps 2, -1 and 5; a pair with an unknown score and one without a caption do not count."""
    scores = {0: 3.0, 1: 1.0, 2: 0.0, 3: 1.0, 4: 5.0, 5: 0.0, 6: None, 7: 1.0, 8: 1.0}
    found = gap(scores, 5)
    assert (found["pairs"], found["mean"], found["p50"]) == (3, 2.0, 2.0)
    assert found["positive"] == pytest.approx(2 / 3)
    assert sum(found["histogram"]["counts"]) == 3
    assert (found["histogram"]["edges"][0], found["histogram"]["edges"][-1]) == (-1.0, 5.0)
    assert gap({0: None, 1: 1.0}, 1) == {"pairs": 0}


def test_bars_are_as_long_as_their_counts():
    told = bars({"edges": [0.0, 1.0, 2.0, 3.0], "counts": [1, 2, 0]}).splitlines()
    assert [line.count("#") for line in told] == [20, 40, 0]
    assert told[0].split() == ["0.000", "to", "1.000", "#" * 20, "1"]
