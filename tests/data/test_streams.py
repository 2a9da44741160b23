import json
from itertools import islice

import datasets
import pytest
from shards import pickapic_shards

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, PairFolder, PickAPicShards, Unpaired
from diffpo.data.mixture import Mixed
from diffpo.data.rows import AtLeast, DropTies
from diffpo.data.streams import PairStream, Stream, Window, open_streams, stream_report


def manifest(path, n=20, **columns):
    """Pairs with prompts "0", "1", ... and no pictures."""
    records = [
        {"prompt": str(i), "chosen": f"w{i}.png", "rejected": f"l{i}.png"} | {k: v[i] for k, v in columns.items()}
        for i in range(n)
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return Columns(str(path))


def prompts(stream, n):
    return [visit.row.prompts[0] for visit in islice(stream.visits(), n)]


def test_an_epoch_gives_every_pair_once_in_an_order_of_its_own(tmp_path):
    stream = PairStream(manifest(tmp_path / "a.jsonl"), [], seed=0, buffer=5)
    seen = prompts(stream, 40)
    assert sorted(seen[:20]) == sorted(seen[20:]) == sorted(map(str, range(20)))
    assert seen[:20] != seen[20:]
    assert seen == prompts(stream, 40)
    assert seen != prompts(PairStream(manifest(tmp_path / "a.jsonl"), [], seed=1, buffer=5), 40)


def test_the_key_of_a_pair_is_its_position_in_the_shuffled_epoch(tmp_path):
    source = manifest(tmp_path / "a.jsonl", 4, sure=[1.0, 0.0, 1.0, None])
    every, sure = (PairStream(source, maps, seed=0, buffer=4) for maps in ([], [AtLeast("sure", 0.5)]))
    keys = {(visit.row.prompts[0], visit.epoch): visit.row.id for visit in islice(every.visits(), 8)}
    assert sorted(keys.values()) == [0, 0, 1, 1, 2, 2, 3, 3]
    kept = list(islice(sure.visits(), 4))
    assert {(visit.row.prompts[0], visit.epoch) for visit in kept} == {("0", 0), ("2", 0), ("0", 1), ("2", 1)}
    assert all(visit.row.id == keys[visit.row.prompts[0], visit.epoch] for visit in kept)


def test_what_is_dropped_is_counted_and_null_prompts_too(tmp_path):
    source = manifest(tmp_path / "a.jsonl", 4, sure=[1.0, 0.0, 1.0, None], text=["a", "b", None, "d"])
    stream = PairStream(Columns(source.path, prompt="text"), [AtLeast("sure", 0.5)], seed=0, buffer=4)
    second, third = islice(stream.visits(), 1, 3)
    assert (second.epoch, third.epoch) == (1, 2)
    read = second.tally[""]
    assert stream_report(third.tally).startswith(f"{third.tally['']} rows were read")
    assert 5 <= read <= 8
    assert third.tally["AtLeast"] + third.tally["a null prompt"] == third.tally[""] - 3


def test_tar_shards_are_streamed_with_their_pictures_encoded(tmp_path):
    pickapic_shards(tmp_path / "s")
    stream = PairStream(PickAPicShards(str(tmp_path / "s")), [DropTies()], seed=0, buffer=2)
    rows = {visit.row.prompts[0]: visit.row for visit in islice(stream.visits(), 2)}
    assert set(rows) == {"0.0", "0.1"}
    assert rows["0.0"].candidates[0].read()["path"].endswith("jpg_0.jpg")
    assert rows["0.1"].candidates[0].read()["path"].endswith("jpg_1.jpg")
    assert "jpg_0.jpg" not in rows["0.0"].extra


def test_a_table_can_be_read_as_a_stream(tmp_path):
    data = datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["w.png"], "rejected": ["l.png"]})
    data.save_to_disk(tmp_path / "saved")
    assert prompts(PairStream(Columns(str(tmp_path / "saved")), [], seed=0, buffer=1), 2) == ["a", "a"]


def test_an_epoch_without_a_pair_is_an_error(tmp_path):
    source = manifest(tmp_path / "a.jsonl", 2, sure=[0.0, 0.0])
    with pytest.raises(Refusal, match=r"No pairs left in an epoch of .*: 2 rows were read, AtLeast dropped 2; change"):
        next(PairStream(source, [AtLeast("sure", 0.5)], seed=0, buffer=1).visits())


def test_missing_keys_are_an_early_error_that_lists_those_there_are(tmp_path):
    pickapic_shards(tmp_path / "s")
    with pytest.raises(Refusal, match="needs columns 'caption', the table has .*'original_prompt.txt', '__key__'"):
        PairStream(PickAPicShards(str(tmp_path / "s"), prompt="caption"), [], seed=0, buffer=1)


def test_a_stream_that_breaks_off_says_where(tmp_path):
    pickapic_shards(tmp_path / "s", (("1",) * 8,))
    whole = (tmp_path / "s" / "00000.tar").read_bytes()
    (tmp_path / "s" / "00000.tar").write_bytes(whole[: len(whole) * 9 // 10])
    stream = PairStream(PickAPicShards(str(tmp_path / "s")), [], seed=0, buffer=1)
    with pytest.raises(
        Refusal, match=r"PickAPicShards.* broke off after \d records .*unexpected end of data"
    ) as caught:
        prompts(stream, 8)
    assert "\n" not in str(caught.value)


def test_a_window_moves_forward_and_looks_ahead(tmp_path):
    stream = PairStream(manifest(tmp_path / "a.jsonl"), [], seed=0, buffer=5)
    window, seen = Window([stream], (1.0,)), prompts(stream, 8)
    window.move(2)
    assert [visit.row.prompts[0] for visit in islice(window.look(), 3)] == seen[2:5]
    window.move(4)
    assert [visit.row.prompts[0] for visit in islice(window.look(), 4)] == seen[4:8]
    assert window.tally[""] == 4


def test_mixed_streams_share_no_key_and_look_ahead_within_one_source(tmp_path):
    sources = [manifest(tmp_path / "a.jsonl", 6), manifest(tmp_path / "b.jsonl", 10)]
    mixed = Mixed([*sources], [1.0, 1.0])
    streams = open_streams(mixed, [], seed=0, buffer=2)
    window, keys = Window(streams, mixed.shares([None, None])), []
    for position in range(40):
        window.move(position)
        ahead = list(islice(window.look(), 3))
        assert len({visit.source for visit in ahead}) == 1
        keys.append((ahead[0].epoch, ahead[0].row.id))
    assert len(set(keys)) == 40
    assert 18 <= sum(row % 2 for _, row in keys) <= 22


def test_rows_of_different_numbers_of_candidates_do_not_mix(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "p", "image": "a.png", "label": 1}))
    mixed = Mixed([manifest(tmp_path / "a.jsonl"), Unpaired(str(tmp_path / "b.jsonl"))], [1.0, 1.0])
    with pytest.raises(Refusal, match="need equally many candidates per row, here are Columns 2, Unpaired 1"):
        open_streams(mixed, [], seed=0, buffer=1)


def test_a_column_that_one_of_several_streams_lacks(tmp_path):
    lacking, having = manifest(tmp_path / "a.jsonl", 1), manifest(tmp_path / "b.jsonl", 1, sure=[1.0])
    with pytest.raises(Refusal, match=r"Of the sources .* Columns\(path='.*a.jsonl'.* AtLeast needs column 'sure'"):
        open_streams(Mixed([having, lacking], [1.0, 1.0]), [AtLeast("sure", 0.5)], seed=0, buffer=1)


def test_an_empty_folder_of_pairs_and_an_empty_buffer_are_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no pairs"):
        PairStream(PairFolder(str(tmp_path)), [], seed=0, buffer=1)
    with pytest.raises(Refusal, match="data.stream.buffer must be at least 1, got 0"):
        Stream(0)
