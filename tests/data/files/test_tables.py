import json
import time

import datasets
import pyarrow
import pytest
from shards import pickapic_shards, png, shard

from diffpo.core.refusal import Refusal
from diffpo.data.files.tables import folder_of, heavy_columns, leave_undecoded, open_stream, open_table


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def both(path, split="train"):
    """What the table holds, which has to be what the stream gives."""
    table, stream = (
        leave_undecoded(open_table(str(path), split, None)),
        leave_undecoded(open_stream(str(path), split, None)),
    )
    assert list(table) == list(stream)
    return table


@pytest.mark.parametrize("how", ["", "/*.tar", "/00000.tar"])
def test_tar_shards_as_folder_glob_and_file(tmp_path, how):
    pickapic_shards(tmp_path / "s")
    table = both(f"{tmp_path}/s{how}")
    assert table["original_prompt.txt"][:2] == ["0.0", "0.1"]
    assert len(table) == (2 if how == "/00000.tar" else 3)
    assert table["label_0.txt"][0] == "1"
    assert heavy_columns(table.features) == {"jpg_0.jpg", "jpg_1.jpg"}


def test_what_was_saved_to_disk_is_a_table_and_a_stream(tmp_path):
    data = datasets.Dataset.from_dict({"prompt": ["a", "b"]})
    data.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "split")
    assert both(tmp_path / "plain")["prompt"][:] == ["a", "b"]
    assert both(tmp_path / "split", "test")["prompt"][:] == ["a", "b"]


def test_a_glob_of_files_that_are_not_tars(tmp_path):
    for i in (1, 0):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps({"prompt": f"p{i}"}) + "\n")
    assert both(tmp_path / "*.jsonl")["prompt"][:] == ["p0", "p1"]


def test_a_shard_cut_short_is_named(tmp_path):
    pickapic_shards(tmp_path / "s")
    whole = (tmp_path / "s" / "00001.tar").read_bytes()
    (tmp_path / "s" / "00001.tar").write_bytes(whole[:2000])
    with pytest.raises(Refusal, match=r"00001.tar is no whole tar archive \(unexpected end of data\); fetch it"):
        open_table(str(tmp_path / "s"), "train", None)


@pytest.mark.parametrize("content", [b"", b"not a tar" * 300])
def test_what_is_no_tar_is_named_at_once(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    for read in (open_table, open_stream):
        with pytest.raises(Refusal, match=r"does not hold .* read: .*a.tar is no whole tar archive") as caught:
            read(str(tmp_path / "a.tar"), "train", None)
        assert "\n" not in str(caught.value)


def test_a_glob_that_fits_nothing(tmp_path):
    with pytest.raises(Refusal, match="no file has such a name"):
        open_table(f"{tmp_path}/*.tar", "train", None)


def test_records_of_one_shard_with_different_keys_are_one_line(tmp_path):
    shard(tmp_path / "a.tar", [{"jpg": png(), "txt": b"a"}, {"png": png()}])
    with pytest.raises(Refusal, match="don't share the same prefix or the same types"):
        open_table(str(tmp_path / "a.tar"), "train", None)


def test_relative_paths_start_at_the_folder_of_the_data(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    assert folder_of(str(tmp_path / "pairs.jsonl")) == folder_of(f"{tmp_path}/*.jsonl") == tmp_path
    assert folder_of(str(tmp_path)) == tmp_path


def parquet(path, n, **columns):
    path.parent.mkdir(exist_ok=True)
    data = {"prompt": [f"p{i}" for i in range(n)], "picture": [png()] * n} | columns
    datasets.Dataset.from_dict(data).cast_column("picture", datasets.Image()).to_parquet(path)


@pytest.mark.parametrize("how", ["", "/*.parquet", "/train-1.parquet"])
def test_parquet_is_a_table_and_a_stream_of_the_same_records(tmp_path, how):
    for i in (0, 1):
        parquet(tmp_path / "data" / f"train-{i}.parquet", 20, number=list(range(20)))
    assert len(both(f"{tmp_path}/data{how}")) == (20 if how.endswith("1.parquet") else 40)


def test_a_split_that_parquet_does_not_have(tmp_path):
    parquet(tmp_path / "train.parquet", 1)
    with pytest.raises(Refusal, match="Bad split: test"):
        open_stream(str(tmp_path), "test", None)


def test_a_stream_of_parquet_reads_no_further_than_it_is_asked(tmp_path):
    """The reader of `datasets` would decode all row groups of the file ahead."""
    datasets.Dataset.from_dict({"n": list(range(4096)), "b": [b"x" * 1000] * 4096}).to_parquet(
        tmp_path / "a.parquet", batch_size=64
    )
    before = pyarrow.total_allocated_bytes()
    rows = iter(open_stream(str(tmp_path / "a.parquet"), "train", None))
    assert next(rows)["n"] == 0
    time.sleep(0.1)
    assert pyarrow.total_allocated_bytes() - before < 1e6


@pytest.mark.parametrize("damage", [lambda file: file[:-9], lambda file: file[:100] + bytes(400) + file[500:]])
def test_a_damaged_parquet_file_of_a_stream_is_named(tmp_path, damage):
    parquet(tmp_path / "a.parquet", 100)
    (tmp_path / "b.parquet").write_bytes(damage((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(Refusal, match=r"b.parquet cannot be read"):
        list(open_stream(f"{tmp_path}/*.parquet", "train", None))


def test_the_copy_of_parquet_has_large_batches(tmp_path):
    parquet(tmp_path / "train.parquet", 250)
    for path in (tmp_path, tmp_path / "train.parquet", f"{tmp_path}/*.parquet"):
        assert open_table(str(path), "train", None).data.column("prompt").num_chunks == 1


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("how", ["a.csv", "*.csv", ""])
def test_a_csv_that_names_a_column_twice_is_refused(tmp_path, how, mark):
    (tmp_path / "a.csv").write_text(f"{mark}prompt,,,chosen,prompt\na,,,b,c\n")
    for read in (open_table, open_stream):
        with pytest.raises(Refusal, match="a.csv has more than one column 'prompt'; rename or remove all but one"):
            read(f"{tmp_path}/{how}", "train", None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", "prompt\tchosen\n", r"its name ends in none of .*\.csv, \.tar; save it as one of these"),
        ("a.csv", "", "a.csv is empty; fill it, or leave it out"),
        ("a.json", "", "a.json is empty; fill it, or leave it out"),
        ("a.csv", "prompt,chosen\n", "it holds no rows; fill it, or name another one"),
        ("a.json", "[]", "it holds no rows; fill it, or name another one"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3; mend that line, or save the table anew"),
        ("a.json", '{"a": 1', "JSON parse error: .*; mend that line, or save the table anew"),
    ],
)
def test_what_is_no_table_is_told_with_a_remedy(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(Refusal, match=rf"\A\S+ does not hold a table of pairs that can be read: .*{said}\Z"):
        open_table(str(tmp_path / name), "train", None)
