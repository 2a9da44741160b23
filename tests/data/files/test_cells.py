from pathlib import Path

from datasets import Dataset

from diffpo.data.files.records import Cell, Held


def test_a_cell_reads_its_own_row_and_column():
    table = Dataset.from_dict({"a": ["a0", "a1"], "b": ["b0", "b1"]})
    assert Cell(table, 1, "b", Path("x")).read() == "b1"


def test_a_held_value_is_what_is_read():
    assert Held("a.png", Path("x")).read() == "a.png"
