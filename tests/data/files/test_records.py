import datasets
import pytest

from diffpo.data.files.records import TOGETHER, records


def table(n=TOGETHER + 3):
    return datasets.Dataset.from_dict(
        {"number": list(range(n)), "text": [str(i) for i in range(n)], "none": [None] * n}
    )


def test_records_are_the_rows_across_slices():
    whole = table()
    assert [dict(record) for record in records(whole)] == list(whole)


def test_a_column_nobody_asks_for_is_not_read(monkeypatch):
    read, select = [], datasets.Dataset.select_columns
    monkeypatch.setattr(
        datasets.Dataset, "select_columns", lambda self, names: (read.extend(names), select(self, names))[1]
    )
    assert sum(record["number"] for record in records(table(5))) == 10
    assert read == ["number"]


def test_a_record_is_a_mapping():
    first = next(records(table(1)))
    assert (len(first), sorted(first), "text" in first, "absent" in first) == (
        3,
        ["none", "number", "text"],
        True,
        False,
    )
    assert (first.get("none", 1), first.get("absent", 1)) == (None, 1)
    with pytest.raises(KeyError):
        first["absent"]
