import pytest
from datasets import Dataset
from tiny import draws

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PickDoubleCaption
from diffpo.data.pairs import PairTable
from diffpo.data.row_maps import DualCaptions


def stored(tmp_path, **changed) -> str:
    columns = {
        "jpg_0": ["a.png", "c.png", "e.png"],
        "jpg_1": ["b.png", "d.png", "f.png"],
        "label_0": [1.0, 0.0, 0.5],
        "caption": ["p", "q", "r"],
        "caption_0": ["of a", "of c", "of e"],
        "caption_1": ["of b", "of d", "of f"],
    }
    kept = {name: values for name, values in (columns | changed).items() if values}
    Dataset.from_dict(kept).to_parquet(tmp_path / "default.parquet")
    return str(tmp_path)


def test_captions_follow_their_pictures_whoever_won(tmp_path):
    table = PairTable(PickDoubleCaption(stored(tmp_path), "train"), [DualCaptions()], 0)
    rows = [table[n] for n in range(3)]
    assert [row.prompts for row in rows] == [("of a", "of b"), ("of d", "of c"), ("of e", "of f")]
    assert [row.candidates[0].read() for row in rows] == ["a.png", "d.png", "e.png"]
    assert rows[2].prob == 0.5


def test_other_columns_of_captions_can_be_named(tmp_path):
    named = {"caption_0": [], "caption_1": [], "short_0": ["x"] * 3, "short_1": ["y"] * 3}
    source = PickDoubleCaption(stored(tmp_path, **named), "train", captions=("short_0", "short_1"))
    assert DualCaptions()(PairTable(source, [], 0)[1], draws(1)).prompts == ("y", "x")


def test_missing_captions_are_told_with_the_texts_that_are_there(tmp_path):
    source = PickDoubleCaption(stored(tmp_path, caption_1=[], llava_1=["x"] * 3), "train")
    with pytest.raises(Refusal, match="no column caption_1; its columns of text are .*caption_0, llava_1: name two"):
        PairTable(source, [], 0)
