import json
from dataclasses import replace

import datasets
import numpy as np
import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, Unpaired
from diffpo.data.mixture import Mixed
from diffpo.data.pairs import PairTable, open_tables, rows_report
from diffpo.data.row_maps import ScoreLabel
from diffpo.data.rows import DropPromptless, DropTies, PairRow, RowMap, Weight


def table_of(tmp_path, prompts):
    data = {"prompt": prompts, "chosen": ["w"] * len(prompts), "rejected": ["l"] * len(prompts)}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "t.parquet")
    return Columns(str(tmp_path / "t.parquet"))


def test_null_prompts_are_an_early_error_with_a_remedy(tmp_path):
    with pytest.raises(Refusal, match=r"2 of 3 rows have no prompt .* the first is row 0; .*DropPromptless"):
        PairTable(table_of(tmp_path, [None, "a", None]), [DropTies()], seed=0)
    assert len(PairTable(table_of(tmp_path, [None, "a", None]), [DropPromptless()], seed=0)) == 1


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(Refusal, match="does not hold a table of pairs that can be read: it holds no rows; fill it"):
        PairTable(table_of(tmp_path, []), [], seed=0)


class OfLength(RowMap):
    """As many candidates as the prompt has letters."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, candidates=row.candidates[:1] * len(row.prompts[0]))


def test_sizes_are_those_of_all_kept_rows(tmp_path):
    source = table_of(tmp_path, ["ab"] * 1500 + ["abc"] + ["ab"] * 700)
    assert PairTable(source, [OfLength()], seed=0).sizes == {2, 3}
    assert PairTable(source, [], seed=0).sizes == {2}


class Scored(RowMap):
    """A score for the rows whose prompt asks for one."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, scores=(0.5, 0.0)) if row.prompts[0] == "scored" else row


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (["scored", "plain", "plain"], "; 2 have no score (a loss that needs one takes 0), 1 have one"),
        (["scored"] * 3, ""),
        (["plain"] * 3, ""),
    ],
)
def test_rows_without_scores_are_told_if_others_have_some(tmp_path, prompts, told):
    table = PairTable(table_of(tmp_path, prompts), [Scored()], seed=0)
    assert rows_report([table]) == f"3 of 3 rows were kept{told}."


def test_a_sample_comes_from_all_over_a_table(tmp_path):
    table = PairTable(table_of(tmp_path, ["a"] * 2500), [], seed=0)
    ids = [row.id for row in table.sample()]
    assert (len(set(ids)), ids[0], ids[-1]) == (1000, 0, 2499)
    assert {b - a for a, b in zip(ids, ids[1:], strict=False)} == {2, 3}
    assert [row.id for row in PairTable(table_of(tmp_path, ["a"] * 3), [], seed=0).sample()] == [0, 1, 2]


def test_kept_rows_cost_five_integers_each(tmp_path):
    table = PairTable(table_of(tmp_path, ["a"] * 5), [], seed=0)
    assert table.kept.dtype == np.int64
    assert table.kept.nbytes == table.row_ids.nbytes == 5 * 8
    assert table.row_ids.tolist() == [0, 1, 2, 3, 4]


def mixed(tmp_path, *sources):
    return Mixed([source(tmp_path / str(i)) for i, source in enumerate(sources)])


def pairs_of(n, **columns):
    def write(folder):
        folder.mkdir(parents=True)
        data = {"prompt": ["a"] * n, "chosen": ["w"] * n, "rejected": ["l"] * n} | columns
        datasets.Dataset.from_dict(data).to_parquet(folder / "t.parquet")
        return Columns(str(folder / "t.parquet"))

    return write


def test_ids_count_on_from_table_to_table_whatever_was_dropped(tmp_path):
    source = mixed(tmp_path, pairs_of(3, weight=[1.0, 2.0, 3.0]), pairs_of(2, weight=[4.0, 5.0]))
    first, second = open_tables(source, [Weight()], seed=0)
    assert [row.id for table in (first, second) for row in (table[i] for i in range(len(table)))] == [0, 1, 2, 3, 4]
    assert second[1].weight == 5.0
    assert second[1].candidates[0].folder == tmp_path / "1"


def test_a_column_that_one_of_several_sources_lacks(tmp_path):
    source = mixed(tmp_path, pairs_of(1, weight=[1.0]), pairs_of(1))
    with pytest.raises(
        Refusal, match=r"Of the sources .* Columns\(path='.*/1/t.parquet'.* Weight needs column 'weight'"
    ):
        open_tables(source, [Weight()], seed=0)


def test_rows_of_different_numbers_of_candidates_do_not_mix(tmp_path):
    def unpaired(folder):
        folder.mkdir()
        data = {"prompt": ["a"], "image": ["w"], "label": [True]}
        datasets.Dataset.from_dict(data).to_parquet(folder / "t.parquet")
        return Unpaired(str(folder / "t.parquet"))

    with pytest.raises(Refusal, match="equally many candidates per row, here are Columns 2, Unpaired 1; train apart"):
        open_tables(mixed(tmp_path, pairs_of(1), unpaired), [], seed=0)


def scored(version):
    """Pairs that scripts/score_pairs.py wrote."""

    def write(folder):
        source = pairs_of(1, score_chosen=[1.0], score_rejected=[0.5])(folder)
        identity = {"scorer": "hpsv2", "model_id": "a", "version": version, "raw": False}
        (folder / "scores.json").write_text(json.dumps(identity | {"min": 0.5, "max": 1.0, "count": 2}))
        return source

    return write


def test_labels_are_not_made_of_scores_of_different_scorers(tmp_path):
    with pytest.raises(Refusal, match="'version': 'v2.0'.* and .*'version': 'v2.1'.*, whose ranges differ"):
        open_tables(mixed(tmp_path / "a", scored("v2.0"), scored("v2.1")), [ScoreLabel()], seed=0)
    assert len(open_tables(mixed(tmp_path / "b", scored("v2.1"), scored("v2.1")), [ScoreLabel()], seed=0)) == 2
    assert len(open_tables(mixed(tmp_path / "c", scored("v2.0"), scored("v2.1")), [DropTies()], seed=0)) == 2


def test_a_range_is_not_taken_from_scores_of_another_scorer(tmp_path):
    scored("v2.0")(tmp_path / "a")
    source = scored("v2.1")(tmp_path / "b")
    label = ScoreLabel(recorded=str(tmp_path / "a"))
    with pytest.raises(Refusal, match="'version': 'v2.0'.* and .*'version': 'v2.1'.*name its scores.json"):
        open_tables(source, [label], seed=0)
    assert len(open_tables(source, [ScoreLabel(recorded=str(tmp_path / "b"))], seed=0)) == 1


def test_kept_rows_are_measured(tmp_path):
    table = PairTable(
        table_of(tmp_path, ["abc", None, "a"]), [DropPromptless()], 0, measure=lambda row: len(row.prompts[0])
    )
    assert table.lengths.tolist() == [3, 1]


def test_what_became_of_the_rows_of_all_tables_is_one_sentence(tmp_path):
    table = PairTable(table_of(tmp_path, ["abc", None, "a"]), [DropPromptless()], 0)
    assert (
        rows_report([table, table], "; 1 was lost") == "4 of 6 rows were kept, DropPromptless dropped 2; 1 was lost."
    )
