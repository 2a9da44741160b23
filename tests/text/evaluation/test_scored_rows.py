"""Rows of texts as what a scorer is asked, and as what is written of them."""

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.text.data.layouts import Lists
from diffpo.text.evaluation import scored_rows
from diffpo.text.evaluation.scored_rows import ScoredRows


def saved(file, rows) -> str:
    Dataset.from_list(rows).to_parquet(str(file))
    return str(file)


def test_answers_are_numbered_through(tmp_path):
    lists = [{"prompt": "a", "responses": ["1", "2", "3"]}, {"prompt": "b", "responses": ["4"]}]
    found = ScoredRows(Lists(saved(tmp_path / "lists.parquet", lists), scores=None), [], 0)
    assert found.begins == [0, 3, 4]
    assert [found.question(n) for n in range(4)] == [("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")]


def test_columns_that_are_null_in_a_group_keep_their_type(tmp_path, monkeypatch):
    monkeypatch.setattr(scored_rows, "GROUP", 1)
    pairs = [{"prompt": p, "chosen": "x", "rejected": "y", "note": note} for p, note in (("a", None), ("b", "n"))]
    found = ScoredRows(Columns(saved(tmp_path / "pairs.parquet", pairs)), [], 0)
    found.write({0: None, 1: 1.0, 2: 2.0, 3: None}, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["note"].to_pylist() == [None, "n"]
    assert (written["score_chosen"].to_pylist(), written["score_rejected"].to_pylist()) == ([None, 2], [1, None])


def test_other_answers_have_another_digest_and_sides_with_prompts_of_their_own_keep_them(tmp_path):
    pairs = [{"prompt": "a", "chosen": "x", "rejected": "y", "other": "b"}]
    one = ScoredRows(Columns(saved(tmp_path / "1.parquet", pairs)), [], 0)
    two = ScoredRows(Columns(saved(tmp_path / "2.parquet", [{**pairs[0], "chosen": "z"}])), [], 0)
    assert one.digest != two.digest
    sides = Columns(str(tmp_path / "1.parquet"), prompt_chosen="prompt", prompt_rejected="other")
    (row,) = ScoredRows(sides, [], 0).records({0: 1.0, 1: 2.0})
    assert (row["prompt_chosen"], row["prompt_rejected"]) == ("a", "b")


def test_lists_cannot_have_several_prompts(tmp_path, monkeypatch):
    file = saved(tmp_path / "pairs.parquet", [{"prompt": "a", "chosen": "x", "rejected": "y", "other": "b"}])
    monkeypatch.setattr(scored_rows, "Lists", Columns)
    with pytest.raises(Refusal, match="have one prompt each"):
        ScoredRows(Columns(file, prompt_chosen="prompt", prompt_rejected="other"), [], 0)
