import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import png
from tiny import pair_folder

from diffpo.data.fingerprint import of_streams, of_tables
from diffpo.data.layouts import Columns, PairFolder
from diffpo.data.mixture import Mixed
from diffpo.data.pairs import open_tables

ROWS = 6


def records(n: int = ROWS) -> list[dict]:
    return [{"prompt": f"a circle {i}", "chosen": f"{i}.png", "rejected": "blue.png", "prob": 0.75} for i in range(n)]


def with_paths(root: Path, rows: list[dict]) -> Columns:
    root.mkdir(exist_ok=True)
    for i in range(ROWS + 1):
        (root / f"{i}.png").write_bytes(png("red", seed=i))
    (root / "blue.png").write_bytes(png("blue"))
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Columns(str(root / "pairs.jsonl"))


def with_bytes(root: Path, rows: list[dict]) -> Columns:
    root.mkdir(exist_ok=True)
    pictures = [{side: png(seed=int(row[side][0], 36)) for side in ("chosen", "rejected")} for row in rows]
    table = [row | of_row for row, of_row in zip(rows, pictures, strict=True)]
    pq.write_table(pa.Table.from_pylist(table), root / "pairs.parquet")
    return Columns(str(root))


def with_texts(root: Path, rows: list[dict]) -> Columns:
    root.mkdir(exist_ok=True)
    (root / "pairs.jsonl").write_text("".join(json.dumps(row | {"chosen": "yes"}) + "\n" for row in rows))
    return Columns(str(root / "pairs.jsonl"))


KINDS = {"paths": with_paths, "bytes": with_bytes, "texts": with_texts}
CHANGES = {
    "a row more": lambda rows: [*rows, rows[0]],
    "a row less": lambda rows: rows[:-1],
    "two rows exchanged": lambda rows: [rows[1], rows[0], *rows[2:]],
    "another prompt": lambda rows: [*rows[:3], rows[3] | {"prompt": "a square 3"}, *rows[4:]],
    "another label": lambda rows: [*rows[:3], rows[3] | {"prob": 0.85}, *rows[4:]],
    "a label as text": lambda rows: [row | {"prob": "0.75"} for row in rows],
    "a column more": lambda rows: [row | {"user_id": "ann"} for row in rows],
    "a column under another name": lambda rows: [{**row, "score": row["prob"]} for row in rows],
    "another chosen side": lambda rows: [*rows[:3], rows[3] | {"chosen": "blue.png"}, *rows[4:]],
}


def told(source) -> dict:
    found = of_tables(open_tables(source, [], 0))
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_elsewhere_and_touched_are_the_same(tmp_path, kind):
    source = KINDS[kind](tmp_path / "a", records())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "b").iterdir():
        os.utime(file, (1, 1))
    name = Path(source.path).relative_to(tmp_path / "a")
    assert told(source) == told(Columns(str(tmp_path / "b" / name)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_data_that_changed_are_others(tmp_path, kind, change):
    before = told(KINDS[kind](tmp_path / "a", records()))
    after = told(KINDS[kind](tmp_path / "b", CHANGES[change](records())))
    assert (after != before) or (kind, change) == ("texts", "another chosen side")


def test_a_picture_behind_a_path_is_read(tmp_path):
    source = with_paths(tmp_path, records())
    before = told(source)
    content = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    after = told(source)
    assert before["0"].keys() == after["0"].keys()
    assert [key for key in before["0"] if before["0"][key] != after["0"][key]] == ["6 of the rows"]


def test_a_folder_of_pairs_is_told_from_others(tmp_path):
    source = PairFolder(str(pair_folder(tmp_path / "pairs")))
    before = told(source)
    (tmp_path / "pairs" / "chosen" / "2.png").write_bytes(png("blue"))
    assert told(source) != before


def test_the_digests_of_finished_work_stand_for_all_of_its_files(tmp_path):
    source = with_bytes(tmp_path, records())
    (tmp_path / "files.json").write_text("{}")
    before = told(source)
    (tmp_path / "files.json").write_text("[]")
    assert [key for key in before["0"] if before["0"][key] != told(source)["0"][key]] == ["digests"]


def test_of_many_rows_some_are_read(tmp_path):
    found = told(with_texts(tmp_path, records(200)))["0"]
    assert (found["rows"], "64 of the rows" in found) == (200, True)


def test_mixed_sources_are_told_apart_by_number(tmp_path):
    sources = [with_texts(tmp_path / "a", records()), with_bytes(tmp_path / "b", records(4))]
    assert {key: of["rows"] for key, of in told(Mixed(sources, [1.0, 1.0])).items()} == {"0": 6, "1": 4}


def test_of_a_stream_names_and_sizes_are_known(tmp_path):
    source = with_texts(tmp_path, records())
    size = (tmp_path / "pairs.jsonl").stat().st_size
    assert of_streams([source]) == {"0": {"sizes": {"pairs.jsonl": size}}}
    (tmp_path / "pairs.jsonl").write_text((tmp_path / "pairs.jsonl").read_text() * 2)
    assert of_streams([source]) == {"0": {"sizes": {"pairs.jsonl": 2 * size}}}


def test_a_set_on_the_hub_has_no_files_here():
    assert of_streams([Columns("someone/pairs")]) == {"0": {"sizes": {}}}
