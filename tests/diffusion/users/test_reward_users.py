import pytest
from datasets import Dataset

from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Cell
from diffpo.data.pairs import PairTable
from diffpo.data.rows import DropTies
from diffpo.diffusion.users.rows import RewardUsers

PAIRS = {"prompt": ["a", "b", "c"], "chosen": [b"1", b"2", b"3"], "rejected": [b"4", b"5", b"6"]}


def scored(folder, chosen: list[float | None], rejected: list[float | None], **columns) -> str:
    folder.mkdir()
    table = PAIRS | {"score_chosen": chosen, "score_rejected": rejected} | columns
    Dataset.from_dict(table).to_parquet(folder / "pairs.parquet")
    return str(folder)


@pytest.fixture
def source(tmp_path):
    """Two scorers who disagree about the first pair, tie on the second, and one of whom could not read the third."""
    return RewardUsers(
        {
            "clip": scored(tmp_path / "clip", [2.0, 1.0, None], [1.0, 1.0, 4.0]),
            "hps": scored(tmp_path / "hps", [0.1, 0.3, 0.5], [0.2, 0.3, 0.4]),
        }
    )


def side(cell: Cell) -> str:
    return cell.column


def test_each_scorer_prefers_what_it_scores_higher(source):
    table = PairTable(source, [], seed=0)
    rows = [table[i] for i in range(len(table))]
    assert [row.extra["user_id"] for row in rows] == ["clip"] * 3 + ["hps"] * 3
    assert [(side(row.candidates[0]), row.prob) for row in rows] == [
        ("chosen", 1.0),
        ("chosen", 0.5),
        ("chosen", 0.5),
        ("rejected", 1.0),
        ("chosen", 0.5),
        ("chosen", 1.0),
    ]
    assert rows[3].scores == (0.2, 0.1)
    assert [row.id for row in rows] == list(range(6))  # one pair of two users is two rows


def test_ties_and_unreadable_pictures_can_be_dropped(source):
    table = PairTable(source, [DropTies()], seed=0)
    assert table.row_ids.tolist() == [0, 3, 5]
    assert table.dropped == {"DropTies": 3}


def test_pairs_that_nobody_scored_are_refused(tmp_path):
    Dataset.from_dict(PAIRS).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(Refusal, match="no column 'score_chosen'; score its pairs"):
        RewardUsers({"a": str(tmp_path)}).open()
    with pytest.raises(Refusal, match="needs folders of scored pairs"):
        RewardUsers({})


def test_folders_of_other_columns_are_refused(tmp_path):
    one = scored(tmp_path / "one", [1.0] * 3, [0.0] * 3)
    two = scored(tmp_path / "two", [1.0] * 3, [0.0] * 3, seed=[1, 2, 3])
    with pytest.raises(Refusal, match=r"two differs from the first folder in columns \['seed'\]"):
        RewardUsers({"a": one, "b": two}).open()
