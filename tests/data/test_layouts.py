import json
import math

import datasets
import pytest
from PIL import Image
from shards import pickapic_shards, png
from tiny import pair_folder, picture

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.data.layouts import Columns, HPDv3, PairFolder, PickAPic, PickAPicShards, VoteShares
from diffpo.data.pairs import PairTable, find_lack
from diffpo.data.rows import AtLeast, DropTies, DropUnlabeled


def pickapic(path, labels=(1.0, 0.0, 0.5), **columns):
    n = len(labels)
    table = {
        "jpg_0": [png("red")] * n,
        "jpg_1": [png("blue")] * n,
        "label_0": list(labels),
        "caption": [f"prompt {i}" for i in range(n)],
    }
    datasets.Dataset.from_dict(table | columns).to_parquet(path)
    return PickAPic(str(path))


DRAWS = Draws(0, (0,), (0,))


def rows(source, maps=()):
    table = PairTable(source, list(maps), seed=0)
    return [table[i] for i in range(len(table))]


def test_pickapic_puts_the_winner_first_and_marks_ties(tmp_path):
    first, second, tie = rows(pickapic(tmp_path / "a.parquet"))
    assert first.candidates[0].read() == png("red")
    assert second.candidates[0].read() == png("blue")
    assert (first.prob, second.prob, tie.prob) == (1.0, 1.0, 0.5)
    assert first.prompts == ("prompt 0", "prompt 0")


def test_pickapic_rows_without_a_verdict_are_ties(tmp_path):
    source = pickapic(
        tmp_path / "a.parquet", (1.0, 0.0, 1.0), has_label=[False, True, True], are_different=[True, True, False]
    )
    assert [row.prob for row in rows(source)] == [0.5, 1.0, 0.5]


def test_pickapic_never_guesses_a_label(tmp_path):
    with pytest.raises(Refusal, match=r"Row 1 has label_0 = 0.7; PickAPic needs 1, 0, or 0.5"):
        rows(pickapic(tmp_path / "a.parquet", (1.0, 0.7)))


def test_shares_of_votes_are_soft_labels_and_the_side_of_most_votes_wins(tmp_path):
    pickapic(tmp_path / "a.parquet", (0.8, 0.2, 0.5))
    first, second, tie = rows(VoteShares(str(tmp_path / "a.parquet"), label="label_0"))
    assert [row.prob for row in (first, second, tie)] == [0.8, 0.8, 0.5]
    assert first.candidates[0].read() == png("red")
    assert second.candidates[0].read() == png("blue")


def test_a_row_without_votes_has_no_label(tmp_path):
    pickapic(tmp_path / "a.parquet", (0.8, None))
    with pytest.raises(Refusal, match=r"1 of 2 rows have no label .* the first is row 1"):
        rows(VoteShares(str(tmp_path / "a.parquet"), label="label_0"))


@pytest.mark.parametrize("share", [1.2, -0.1, "most"])
def test_a_share_of_votes_is_a_share(tmp_path, share):
    pickapic(tmp_path / "a.parquet", (share,))
    with pytest.raises(Refusal, match=r"Row 0 has label_0 = .*VoteShares needs the share of votes .* in \[0, 1\]"):
        rows(VoteShares(str(tmp_path / "a.parquet"), label="label_0"))


def test_binarized_set_with_image_features_and_renamed_columns(tmp_path):
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "good": datasets.Image(),
            "bad": datasets.Image(),
            "weight": datasets.Value("float64"),
        }
    )
    data = {
        "text": ["a"],
        "good": [{"bytes": png("red"), "path": None}],
        "bad": [{"bytes": png("blue"), "path": None}],
        "weight": [2.0],
    }
    datasets.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "b.parquet")
    (row,) = rows(Columns(str(tmp_path), prompt="text", chosen="good", rejected="bad"))
    assert row.candidates[0].read()["bytes"] == png("red")
    assert row.extra["weight"] == 2.0
    assert "good" not in row.extra


def test_binarized_set_that_says_how_sure_it_is(tmp_path):
    lines = [{"prompt": "a", "chosen": "w.png", "rejected": "l.png", "prob": prob} for prob in (1, 0.5, 0.75)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [row.prob for row in rows(Columns(str(tmp_path / "a.jsonl")))] == [1.0, 0.5, 0.75]
    assert [row.prob for row in rows(Columns(str(tmp_path / "a.jsonl"), prob=None))] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("prob", [0.25, 1.5, "sure"])
def test_binarized_set_never_guesses_a_probability(tmp_path, prob):
    lines = [{"prompt": "a", "chosen": "w.png", "rejected": "l.png", "prob": prob}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(Refusal, match=rf"Row 0 has prob = {prob!r}, but P\(chosen wins\) is a number in \[0.5, 1\]"):
        rows(Columns(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("nothing", [None, math.nan, ""])
def test_a_row_without_a_probability_has_no_label(nothing):
    record = {"prompt": "a", "prob": nothing}
    row = Columns("nowhere").row(0, record, str)
    assert find_lack(row) == "label"
    assert DropUnlabeled()(row, DRAWS) is None


def test_captions_per_side(tmp_path):
    data = {"prompt": ["p"], "a": ["for w"], "b": ["for l"], "chosen": [png("red")], "rejected": [png("blue")]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "c.parquet")
    (row,) = rows(Columns(str(tmp_path / "c.parquet"), prompt_chosen="a", prompt_rejected="b"))
    assert row.prompts == ("for w", "for l")


def test_jsonl_manifest_with_relative_paths(tmp_path):
    picture("red").save(tmp_path / "w.png")
    line = {"prompt": "a", "chosen": "w.png", "rejected": "l.png"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    source = Columns(str(tmp_path / "pairs.jsonl"))
    (row,) = rows(source)
    assert Image.open(source.folder / row.candidates[0].read()).getpixel((0, 0)) == (255, 0, 0)


def test_saved_to_disk(tmp_path):
    data = datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["w.png"], "rejected": ["l.png"]})
    data.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "split")
    assert len(rows(Columns(str(tmp_path / "plain")))) == 1
    assert len(rows(Columns(str(tmp_path / "split"), split="test"))) == 1


def test_pair_folder(tmp_path):
    pair_folder(tmp_path, n=3)
    found = rows(PairFolder(str(tmp_path)))
    assert [row.prompts[0] for row in found] == [f"a red circle on the left {i}" for i in range(3)]
    assert found[1].candidates[1].read().endswith("rejected/1.png")


@pytest.mark.parametrize(
    ("lost", "said"), [("rejected/1.png", "rejected picture"), ("chosen/0.png", "chosen picture"), ("2.txt", "prompt")]
)
def test_incomplete_pairs_are_named(tmp_path, lost, said):
    pair_folder(tmp_path, n=3)
    (tmp_path / lost).unlink()
    with pytest.raises(Refusal, match=rf"1 of 3 pairs .* have no {said}.*the first is '{lost[-5]}'"):
        PairFolder(str(tmp_path)).open()


def test_two_pictures_of_one_stem_are_refused(tmp_path):
    pair_folder(tmp_path, n=1)
    picture().save(tmp_path / "chosen" / "0.jpg")
    with pytest.raises(Refusal, match="are both '0'; keep one"):
        PairFolder(str(tmp_path)).open()


def test_an_empty_folder_of_pairs_is_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no pairs; a pair x needs"):
        PairFolder(str(tmp_path)).open()


def test_a_folder_of_pairs_that_is_not_there_does_not_count_as_empty(tmp_path):
    with pytest.raises(Refusal, match="There is no .*nope, which was named as a folder of pairs; check the spelling"):
        PairFolder(str(tmp_path / "nope")).open()


@pytest.mark.parametrize("kind", [Columns, PickAPic, HPDv3])
@pytest.mark.parametrize("how", ["open", "stream"])
def test_a_folder_of_pairs_given_to_another_layout_names_the_one_that_reads_it(tmp_path, kind, how):
    with pytest.raises(Refusal, match="it is a folder of pairs .*, which diffpo.data.PairFolder reads"):
        getattr(kind(str(pair_folder(tmp_path, n=1))), how)()


def test_misnamed_columns_are_listed(tmp_path):
    pickapic(tmp_path / "a.parquet")
    with pytest.raises(Refusal, match=r"Columns needs columns 'chosen', 'prompt', 'rejected', the table has 'jpg_0'"):
        rows(Columns(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("gone", ["yuvalkirstain/pickapic_v1", "yuvalkirstain/pickapic_v2"])
def test_deleted_data_sets_name_a_way_out(gone):
    with pytest.raises(Refusal, match="was deleted from the hub; use a mirror or your own copy"):
        PickAPic(gone).open()


def test_unreachable_hub_is_one_line():
    with pytest.raises(
        Refusal, match="Cannot load a table of pairs from 'someone/nothing'.*Check the spelling"
    ) as caught:
        Columns("someone/nothing").open()
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "pairs.xlsx").write_text("")
    with pytest.raises(
        Refusal, match="does not hold a table of pairs that can be read: its name ends in none of .parquet"
    ):
        Columns(str(tmp_path / "pairs.xlsx")).open()


def test_ties_are_counted_and_nothing_left_is_an_error(tmp_path):
    table = PairTable(pickapic(tmp_path / "a.parquet"), [DropTies()], seed=0)
    assert dict(table.dropped) == {"DropTies": 1}
    assert table.kept.tolist() == [0, 1]
    with pytest.raises(
        Refusal, match=r"No pairs left of 2 rows of .*DropTies dropped 2; change data.source or data.rows"
    ):
        PairTable(pickapic(tmp_path / "b.parquet", (0.5, 0.5)), [DropTies()], seed=0)


def test_a_row_map_sees_its_own_row(tmp_path):
    seen = []

    class Spy(DropTies):
        def __call__(self, row, draws: Draws):
            seen.append((row.id, draws.row))
            return row

    PairTable(pickapic(tmp_path / "a.parquet"), [Spy()], seed=0)
    assert seen == [(0, (0,)), (1, (1,)), (2, (2,))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", ".*pairs.jsonl is empty; fill it"), ('{"prompt": \n{{', "(JSON parse error|Expected object)")],
)
def test_a_file_that_cannot_be_parsed_says_why(tmp_path, text, reason):
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(Refusal, match=f"does not hold a table of pairs that can be read: {reason}"):
        Columns(str(tmp_path / "pairs.jsonl")).open()


ROW = '{"prompt": "a", "chosen": "a.png", "rejected": "b.png"}'
HEAD, CELLS = "prompt,chosen,rejected\n", "a,a.png,b.png\n"
UNREADABLE = "does not hold a table of pairs that can be read: "


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", (HEAD + CELLS).replace(",", ";"), "needs columns .*the table has 'prompt;chosen;rejected'"),
        ("a.tsv", (HEAD + CELLS).replace(",", "\t"), f"{UNREADABLE}its name ends in none of"),
        ("a.csv", HEAD + "a,a.png,b.png,c.png\n" + CELLS + "a,b,c,d,e\n", UNREADABLE),
        ("a.csv", "", UNREADABLE),
        ("a.csv", (HEAD + "\u00e9,a.png,b.png\n").encode("cp1252"), "no text in utf-8"),
        ("a.json", f'{{"data": [{ROW}]}}', "needs columns .*the table has 'data'"),
        ("a.json", "[]", UNREADABLE),
        ("a.jsonl", ROW.encode("utf-16"), "a text in utf-16; save it as UTF-8"),
        ("a.jsonl", ROW.replace('"a"', '"\\ud800"'), UNREADABLE),
        ("a.jsonl", ROW.replace('"a"', '"\u00e9"').encode("cp1252"), "save the file as UTF-8"),
    ],
)
def test_tables_of_another_form_are_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refusal, match=reason) as caught:
        PairTable(Columns(str(tmp_path / name)), [], 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("a.csv", HEAD + CELLS), ("a.jsonl", ROW)])
def test_a_mark_before_a_table_of_pairs_is_no_part_of_it(tmp_path, name, content):
    (tmp_path / name).write_text(f"\ufeff{content}", encoding="utf-8")
    assert PairTable(Columns(str(tmp_path / name)), [], 0)[0].prompts == ("a", "a")


def test_another_split_of_a_saved_dataset_is_named(tmp_path):
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"prompt": ["a"]})}).save_to_disk(tmp_path / "saved")
    with pytest.raises(Refusal, match="data.source.split is 'train', there are test"):
        Columns(str(tmp_path / "saved")).open()


def test_pickapic_with_columns_of_other_names_and_labels_as_text(tmp_path):
    lines = [{"a": "0.png", "b": "1.png", "who": who, "text": "p"} for who in ("0", "0.5", "1.0")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = PickAPic(str(tmp_path / "a.jsonl"), first="a", second="b", label="who", prompt="text")
    assert [(row.candidates[0].read(), row.prob) for row in rows(source)] == [
        ("1.png", 1.0),
        ("0.png", 0.5),
        ("0.png", 1.0),
    ]


def test_pickapic_as_tar_shards(tmp_path):
    first, second, tie = rows(PickAPicShards(str(pickapic_shards(tmp_path / "s"))))
    assert [row.prompts[0] for row in (first, second, tie)] == ["0.0", "0.1", "1.0"]
    assert (first.prob, second.prob, tie.prob) == (1.0, 1.0, 0.5)
    assert first.candidates[0].read()["bytes"] == png(seed=0)
    assert second.candidates[0].read()["bytes"] == png(seed=3)


def test_a_tar_without_the_expected_keys_lists_those_it_has(tmp_path):
    pickapic_shards(tmp_path / "s")
    with pytest.raises(
        Refusal, match=r"PickAPic needs columns 'caption', .*, the table has 'jpg_0.jpg', .*'original_prompt.txt'"
    ):
        rows(PickAPic(str(tmp_path / "s")))


def test_hpdv3_with_its_confidence_and_a_folder_of_images(tmp_path):
    sure, *others = (
        {"prompt": "p", "path1": "a.jpg", "path2": "b.jpg", "confidence": value} for value in (0.99, 0.5, None)
    )
    (tmp_path / "train.json").write_text(json.dumps([sure, *others]))
    source = HPDv3(str(tmp_path / "train.json"), images=str(tmp_path / "images"))
    (row,) = rows(source, [AtLeast("confidence", 0.95)])
    assert [candidate.read() for candidate in row.candidates] == ["a.jpg", "b.jpg"]
    assert row.candidates[0].folder == tmp_path / "images"


def test_a_stream_gives_the_records_of_the_table(tmp_path):
    pickapic(tmp_path / "a.parquet")
    for source in (PickAPic(str(tmp_path / "a.parquet")), PairFolder(str(pair_folder(tmp_path / "f", n=2)))):
        assert list(source.stream()) == list(source.open())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_prompts_of_a_pair_folder_say_their_encoding_by_a_mark(tmp_path, encoding):
    pair_folder(tmp_path, n=2)
    (tmp_path / "1.txt").write_bytes(" un café 左\r\n".encode(encoding))
    table = PairTable(PairFolder(str(tmp_path)), [], seed=0)
    assert table[1].prompts == ("un café 左",) * 2
    assert sum(table.notes.values()) == (encoding == "utf-8-sig")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le"])
def test_prompts_of_a_pair_folder_in_another_encoding_are_named(tmp_path, encoding):
    pair_folder(tmp_path, n=2)
    (tmp_path / "1.txt").write_bytes("café rouge".encode(encoding))
    with pytest.raises(Refusal, match=rf"^{tmp_path}/1.txt is no text in utf-8 \(.*\); save it as UTF-8$"):
        rows(PairFolder(str(tmp_path)))


def test_a_column_of_texts_in_another_encoding_is_named(tmp_path):
    line = '{"prompt": "a", "chosen": "w.png", "rejected": "l.png", "by": "José"}'
    (tmp_path / "a.jsonl").write_bytes(line.encode("cp1252"))
    with pytest.raises(Refusal, match=r"^Column 'by' cannot be read \(.*UTF8.*\); save the file as UTF-8\.$"):
        rows(Columns(str(tmp_path / "a.jsonl")))


def test_lists_of_one_picture_are_read_like_pictures(tmp_path):
    """The layout of TRL's `images`."""
    features = datasets.Features(
        {"prompt": datasets.Value("string")} | dict.fromkeys(("chosen", "rejected"), datasets.List(datasets.Image()))
    )
    pictures = [[{"bytes": png(seed=n), "path": None}] for n in range(4)]
    data = {
        "prompt": ["a", "b"],
        "chosen": pictures[:2],
        "rejected": [pictures[2], [{"bytes": b"torn", "path": None}]],
    }
    datasets.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "a.parquet")
    found = rows(Columns(str(tmp_path / "a.parquet")))
    assert found[0].candidates[0].read() == pictures[0]
    assert read_image(found[0].candidates[1].read()) == picture(seed=2)
    with pytest.raises(BrokenImage):
        read_image(found[1].candidates[1].read())
    assert "chosen" not in found[0].extra
