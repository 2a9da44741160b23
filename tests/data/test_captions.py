from dataclasses import replace

import pytest
from datasets import Dataset
from tiny import draws

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.pairs import PairTable
from diffpo.data.row_maps import FALLBACK, DualCaptions, ScoreLabel
from diffpo.data.rows import PairRow, apply_maps

ROW = PairRow(0, ("a dog",) * 2, ("c", "r"), extra={"caption_chosen": "a red dog", "caption_rejected": "a blue dog"})


def test_each_side_is_told_its_own_caption():
    row = DualCaptions()(ROW, draws(1))
    assert row is not None
    assert row.prompts == ("a red dog", "a blue dog")


@pytest.mark.parametrize("missing", [None, "", "  \n"])
@pytest.mark.parametrize("side", ["caption_chosen", "caption_rejected"])
def test_a_pair_that_lacks_one_caption_keeps_its_prompt_on_both_sides(missing, side):
    row = DualCaptions()(replace(ROW, extra={**ROW.extra, side: missing}), draws(1))
    assert row is not None
    assert row.prompts == ("a dog", "a dog")
    assert row.notes == (FALLBACK,)


@pytest.mark.parametrize("captions_first", [True, False])
def test_captions_stay_with_their_pictures_when_a_scorer_exchanges_the_sides(captions_first):
    maps = [DualCaptions(), ScoreLabel()] if captions_first else [ScoreLabel(), DualCaptions()]
    scored = replace(ROW, extra={**ROW.extra, "score_chosen": 0.1, "score_rejected": 0.9})
    row = apply_maps(scored, maps, draws(1))
    assert isinstance(row, PairRow)
    assert row.candidates == ("r", "c")
    assert row.prompts == ("a blue dog", "a red dog")


def test_a_missing_column_names_the_script_that_writes_it():
    with pytest.raises(Refusal, match=r"DualCaptions needs column 'caption_0'.*scripts/caption_pairs.py"):
        DualCaptions(("caption_0", "caption_1"))(ROW, draws(1))


def test_a_table_counts_the_pairs_that_fell_back(tmp_path):
    captions = {"caption_chosen": ["x", None, "x", ""], "caption_rejected": ["y", "y", None, "y"]}
    pairs = {"prompt": ["p"] * 4, "chosen": ["c.png"] * 4, "rejected": ["r.png"] * 4}
    Dataset.from_dict(pairs | captions).to_parquet(tmp_path / "pairs.parquet")
    table = PairTable(Columns(str(tmp_path)), [DualCaptions()], 0)
    assert table.notes == {FALLBACK: 3}
