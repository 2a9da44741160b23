import datasets
import pyarrow.parquet as pq
import pytest
from shards import png
from tiny import pair_folder, picture

from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.layouts import Columns, PairFolder
from diffpo.data.pairs import PairTable
from diffpo.diffusion.annotate import shards as pair_shards
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder, survey_rows
from diffpo.diffusion.annotate.shards import PairShards, further_columns, mean_bytes, read_stored_bytes


def shards_of(source) -> PairShards:
    pairs = PairsInOrder(source)
    per_side = survey_rows(pairs).per_side
    return PairShards(pairs, further_columns(pairs.columns, per_side), per_side, mean_bytes(pairs))


def written(shards, folder, scores=None):
    """All shards, read again by the trainer's own source."""
    for shard in range(len(shards.names)):
        shards.write(shard, folder, scores or dict.fromkeys(range(2 * len(shards.pairs)), 0.5))
    table = PairTable(Columns(str(folder)), [], seed=0)
    return [table[i] for i in range(len(table))]


@pytest.fixture
def output_dir(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_shards_hold_every_pair_once_in_order_in_files_of_the_wanted_size(tmp_path, output_dir, monkeypatch):
    shards = shards_of(PairFolder(str(pair_folder(tmp_path / "f", n=5))))
    monkeypatch.setattr(pair_shards, "SHARD", 2 * shards.mean)
    monkeypatch.setattr(pair_shards, "GROUP", 1)
    assert shards.names == [f"train-0000{shard}-of-00003.parquet" for shard in range(3)]
    scores = {number: number / 4 for number in range(10)}
    rows = written(shards, output_dir, scores)
    assert [row.prompts[0][-1] for row in rows] == list("01234")
    assert [(row.extra["score_chosen"], row.extra["score_rejected"]) for row in rows] == [
        (n / 2, n / 2 + 0.25) for n in range(5)
    ]
    assert pq.ParquetFile(output_dir / shards.names[0]).num_row_groups == 2  # one pair is more than a byte
    assert sorted(path.name for path in output_dir.iterdir()) == shards.names


def test_pictures_in_files_become_part_of_the_data_byte_for_byte(tmp_path, output_dir):
    shards = shards_of(PairFolder(str(pair_folder(tmp_path / "f", n=2))))
    files = [(tmp_path / "f" / side / "1.png").read_bytes() for side in ("chosen", "rejected")]
    _, second = written(shards, output_dir)
    assert [candidate.read()["bytes"] for candidate in second.candidates] == files
    assert [candidate.read()["path"] for candidate in second.candidates] == ["1.png", "1.png"]


def test_pictures_stay_the_bytes_they_were_even_broken_ones(tmp_path, output_dir):
    jpeg = tmp_path / "a.jpg"
    picture(seed=0).save(jpeg, quality=30)
    data = {"prompt": ["p"] * 2, "chosen": [jpeg.read_bytes(), b"torn"], "rejected": [png(), None]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    first, second = written(shards_of(Columns(str(tmp_path / "a.parquet"))), output_dir, dict.fromkeys(range(4)))
    assert [c.read()["bytes"] for c in (*first.candidates, second.candidates[0])] == [
        jpeg.read_bytes(),
        png(),
        b"torn",
    ]
    assert second.candidates[1].read() is None
    assert first.extra["score_chosen"] is None


def test_a_picture_as_it_is_stored(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    told = {"bytes": png(), "path": "a.png"}
    for value in ("a.png", str(tmp_path / "a.png"), {"bytes": None, "path": "a.png"}, told):
        assert read_stored_bytes(Held(value, tmp_path)) == told
    assert read_stored_bytes(Held(b"a", tmp_path)) == {"bytes": b"a", "path": None}
    for value in (None, {"bytes": None, "path": None}, "missing.png"):
        assert read_stored_bytes(Held(value, tmp_path)) is None


def test_nothing_but_pictures_of_the_data_is_copied(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "key.png").write_text("-----BEGIN PRIVATE KEY-----")
    (tmp_path / "data" / "torn.png").write_bytes(png()[: len(png()) // 2])
    (tmp_path / "private.png").write_bytes(png())
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "private.png")
    for value in ("key.png", "torn.png", "../private.png", str(tmp_path / "private.png"), "link.png", "/etc/passwd"):
        assert read_stored_bytes(Held(value, tmp_path / "data")) is None
        assert read_stored_bytes(Held({"bytes": None, "path": value}, tmp_path / "data")) is None
    assert read_stored_bytes(Held("private.png", tmp_path)) == {"bytes": png(), "path": "private.png"}
    assert read_stored_bytes(Held("private.png", tmp_path, 100)) is None


def test_light_columns_of_any_type_come_along_and_ours_take_precedence(tmp_path, output_dir):
    features = {"tags": datasets.List(datasets.Value("string")), "kind": datasets.ClassLabel(names=["x", "y"])}
    strings = dict.fromkeys(("text", "prompt", "user_id"), datasets.Value("string"))
    images = {"chosen": datasets.Image(), "rejected": datasets.Image()}
    record = {"tags": ["a", "b"], "kind": 1, "text": "p", "prompt": "another", "user_id": "u", "score_chosen": 9.0}
    record |= {side: {"bytes": png(), "path": None} for side in images}
    table = datasets.Features(features | strings | images | {"score_chosen": datasets.Value("float32")})
    datasets.Dataset.from_list([record], features=table).to_parquet(tmp_path / "a.parquet")
    (row,) = written(shards_of(Columns(str(tmp_path / "a.parquet"), prompt="text")), output_dir)
    kept = {"tags": ["a", "b"], "kind": 1, "text": "p", "user_id": "u"}
    assert row.extra == kept | {"prompt": "p", "prob": 1.0, "score_chosen": 0.5, "score_rejected": 0.5}
    read = datasets.load_dataset(str(output_dir), split="train")
    assert read.features["kind"] == features["kind"]
    assert read[0]["chosen"].size == (40, 32)


def test_captions_per_side_get_columns_and_the_common_prompt_stays(tmp_path, output_dir):
    data = {"prompt": ["p"], "a": ["w"], "b": ["l"], "chosen": [png()], "rejected": [png()]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    source = Columns(str(tmp_path / "a.parquet"), prompt_chosen="a", prompt_rejected="b")
    (row,) = written(shards_of(source), output_dir)
    names = ("prompt", "prompt_chosen", "prompt_rejected")
    assert [row.extra[name] for name in names] == ["p", "w", "l"]


def test_columns_of_mixed_sources_are_joined_unless_their_types_differ():
    text, number = datasets.Value("string"), datasets.Value("int64")
    first, second = datasets.Features({"a": text, "prompt": text}), datasets.Features({"a": text, "b": number})
    assert further_columns([first, second], per_side=False) == {"a": text, "b": number}
    with pytest.raises(Refusal, match="Column 'a' is .* in one source and .* in another; score them apart"):
        further_columns([first, datasets.Features({"a": number})], per_side=False)


def test_captions_that_the_source_does_not_use_are_only_ours_if_prompts_differ():
    text = datasets.Value("string")
    columns = [datasets.Features({"prompt_chosen": text})]
    assert further_columns(columns, per_side=False) == {"prompt_chosen": text}
    assert further_columns(columns, per_side=True) == {}


def test_the_size_is_that_of_the_stored_pictures(tmp_path):
    pairs = PairsInOrder(PairFolder(str(pair_folder(tmp_path, n=3))))
    files = [file.stat().st_size for file in tmp_path.glob("*/*.png")]
    assert mean_bytes(pairs) == pytest.approx(sum(files) / 3)


def test_columns_that_hold_no_pictures_are_told_before_any_work(tmp_path):
    data = {"prompt": ["p"], "chosen": ["a good one"], "rejected": ["missing.png"]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(Refusal, match="None of the pictures .* can be read .*no file 'missing.png'.*relative to"):
        mean_bytes(PairsInOrder(Columns(str(tmp_path / "a.parquet"))))
