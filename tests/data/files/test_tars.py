from itertools import islice

import datasets
import pytest
from shards import png, shard

from diffpo.core.refusal import Refusal
from diffpo.data.files.tables import open_stream, open_table
from diffpo.data.layouts import PickAPicShards
from diffpo.data.pairs import PairTable
from diffpo.data.rows import DropPromptless, DropUnlabeled
from diffpo.data.sampler import ProcessShare
from diffpo.data.streams import PairStream, Stream
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData

SAMPLES = 8


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def tar(path, lacks=None, **changed):
    """Pairs with prompts p0, p1, ...; `lacks` are a number and a file that this one lacks."""
    pictures = [{f"jpg_{side}.jpg": png(seed=2 * n + side) for side in (0, 1)} for n in range(SAMPLES)]
    records = [of | {"label_0.txt": b"1", "original_prompt.txt": b"p%d" % n} for n, of in enumerate(pictures)]
    for name, content in changed.items():
        records[2][f"{name}.txt"] = content
    if lacks:
        del records[lacks[0]][lacks[1]]
    shard(path, records)
    return str(path)


@pytest.mark.parametrize("read", [open_table, open_stream])
@pytest.mark.parametrize("which", range(0, SAMPLES, 3))
@pytest.mark.parametrize("lacks", ["jpg_0.jpg", "jpg_1.jpg", "label_0.txt", "original_prompt.txt"])
def test_what_a_sample_lacks_is_null_and_the_others_are_whole(tmp_path, read, which, lacks):
    rows = list(read(tar(tmp_path / "a.tar", (which, lacks)), "train", None))
    assert [[name for name, value in row.items() if value is None] for row in rows] == [
        [lacks] if n == which else [] for n in range(SAMPLES)
    ]
    assert [row["original_prompt.txt"] for n, row in enumerate(rows) if n != which] == [
        f"p{n}" for n in range(SAMPLES) if n != which
    ]


@pytest.mark.parametrize("stream", [None, Stream(2)])
def test_a_sample_without_a_picture_costs_itself_and_is_counted(tmp_path, stream):
    source = PickAPicShards(tar(tmp_path / "a.tar", (1, "jpg_1.jpg")))
    pairs = PairData(source, [], Framing(16, flip=False), workers=0, caption_dropout=0.0, stream=stream).open(0)
    batches = islice(pairs.batches(ProcessShare(1, 0)), SAMPLES + 1)
    prompts = {prompt for batch in batches for prompt in batch.prompts[0]}
    assert prompts == {f"p{n}" for n in range(SAMPLES) if n != 1}
    assert "with an unreadable picture were passed over" in pairs.report()


def test_a_sample_without_a_prompt_or_a_label_can_be_dropped(tmp_path):
    for lacks, remedy in (("original_prompt.txt", DropPromptless()), ("label_0.txt", DropUnlabeled())):
        source = PickAPicShards(tar(tmp_path / f"{type(remedy).__name__}.tar", (3, lacks)))
        said = rf"1 of 8 rows have no .* the first is row 3; .*diffpo.data.{type(remedy).__name__}\."
        with pytest.raises(Refusal, match=said):
            PairTable(source, [], seed=0)
        table = PairTable(source, [remedy], seed=0)
        assert (len(table), dict(table.dropped)) == (SAMPLES - 1, {type(remedy).__name__: 1})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_texts_say_their_encoding_by_a_mark(tmp_path, encoding):
    path = tar(tmp_path / "a.tar", original_prompt="un café 左".encode(encoding))
    for read in (open_table, open_stream):
        assert list(read(path, "train", None))[2]["original_prompt.txt"] == "un café 左"


def test_a_mark_of_utf_8_is_removed_and_counted(tmp_path):
    table = PairTable(PickAPicShards(tar(tmp_path / "a.tar", original_prompt="é".encode("utf-8-sig"))), [], seed=0)
    assert table[2].prompts == ("é", "é")
    assert dict(table.notes) == {"had a byte-order mark before a text, which was removed": 1}


def test_a_text_in_another_encoding_is_named(tmp_path):
    path = tar(tmp_path / "a.tar", original_prompt="café".encode("cp1252"))
    said = r"a00002.original_prompt.txt in .*a.tar is no text in utf-8 \(.* at byte 3\); save it as UTF-8"
    with pytest.raises(Refusal, match=said) as caught:
        open_table(path, "train", None)
    assert "\n" not in str(caught.value)
    with pytest.raises(Refusal, match=said):
        PairStream(PickAPicShards(path), [], seed=0, buffer=2)


def test_a_shard_that_was_written_anew_is_unpacked_anew(tmp_path):
    one, two = (
        open_table(tar(tmp_path / "a.tar", original_prompt=text), "train", None)["original_prompt.txt"][2]
        for text in (b"one", b"other")
    )
    assert (one, two) == ("one", "other")


def test_a_shard_without_samples_is_refused(tmp_path):
    shard(tmp_path / "a.tar", [])
    with pytest.raises(Refusal, match="does not hold a table of pairs that can be read"):
        open_table(str(tmp_path / "a.tar"), "train", None)
