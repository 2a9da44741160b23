import json

import datasets
import pytest
from PIL import Image
from shards import png
from tiny import picture

from diffpo.core.refusal import Refusal
from diffpo.data.pairs import PairTable
from diffpo.data.rankings import HPDv2, Ranked, RankedLists

COLORS = ("red", "green", "blue", "white")


@pytest.fixture
def ranked(tmp_path):
    """Two prompts, interleaved: of p red beats blue and green, which are equal; of q white beats blue."""
    lines = [("1", "p", "red", 1), ("2", "q", "blue", 7), ("1", "p", "blue", 2), ("2", "q", "white", 3)]
    lines += [("1", "p", "green", 2)]
    for color in COLORS:
        picture(color).save(tmp_path / f"{color}.png")
    names = "prompt_id", "prompt", "image_path", "rank"
    records = [dict(zip(names, (*line[:2], f"{line[2]}.png", line[3]), strict=True)) for line in lines]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    return str(tmp_path / "metadata.jsonl")


def opened(source):
    table = PairTable(source, [], seed=0)
    return [table[i] for i in range(len(table))]


def seen(row):
    return row.prompts[0], *(candidate.read() for candidate in row.candidates), row.prob


WANTED = [("p", "red.png", "blue.png", 1), ("p", "red.png", "green.png", 1), ("p", "blue.png", "green.png", 0.5)]
WANTED += [("q", "white.png", "blue.png", 1)]


def test_all_pairs_of_each_group_lower_ranks_first(ranked):
    rows = opened(Ranked(ranked))
    assert [seen(row) for row in rows] == WANTED
    assert [row.extra["num_example_per_prompt"] for row in rows] == [3, 3, 3, 1]


def test_paths_start_at_the_folder_of_the_data(ranked):
    candidate = opened(Ranked(ranked))[0].candidates[0]
    assert Image.open(candidate.folder / candidate.read()).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_inside_the_table_are_not_copied(tmp_path):
    data = {"prompt_id": [1, 1], "prompt": ["p", "p"], "image": [png("red"), png("blue")], "rank": [2, 1]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    table = PairTable(Ranked(str(tmp_path / "a.parquet"), image="image"), [], seed=0)
    assert [candidate.read() for candidate in table[0].candidates] == [png("blue"), png("red")]
    assert set(table.light.column_names).isdisjoint({"image", "first", "second"})


def test_one_record_per_prompt_gives_the_same_pairs(tmp_path):
    records = [
        {"prompt": "p", "image_path": ["red.png", "blue.png", "green.png"], "rank": [1, 2, 2]},
        {"prompt": "q", "image_path": ["blue.png", "white.png"], "rank": [7, 3]},
    ]
    (tmp_path / "test.json").write_text(json.dumps(records))
    assert [seen(row) for row in opened(RankedLists(str(tmp_path / "test.json")))] == WANTED


def test_hpdv2_marks_the_winner(tmp_path):
    marks = [[1, 0], [0, 1], [1, 1]]
    records = [{"prompt": "p", "file_path": ["a.jpg", "b.jpg"], "human_preference": mark} for mark in marks]
    (tmp_path / "train.json").write_text(json.dumps(records))
    rows = opened(HPDv2(str(tmp_path / "train.json"), images=str(tmp_path / "train")))
    assert [seen(row) for row in rows] == [
        ("p", "a.jpg", "b.jpg", 1),
        ("p", "b.jpg", "a.jpg", 1),
        ("p", "a.jpg", "b.jpg", 0.5),
    ]
    assert rows[0].candidates[0].folder == tmp_path / "train"


def test_hpdv2_never_guesses(tmp_path):
    records = [{"prompt": "p", "file_path": ["a.jpg"], "human_preference": [1]}]
    (tmp_path / "train.json").write_text(json.dumps(records))
    with pytest.raises(Refusal, match=r"Row 0 has file_path = \['a.jpg'\] .* needs two paths and two marks"):
        opened(HPDv2(str(tmp_path / "train.json")))


def test_misnamed_columns_are_listed(ranked):
    with pytest.raises(Refusal, match="Ranked needs columns 'group', the table has 'prompt_id'.*fields of Ranked"):
        opened(Ranked(ranked, group="group"))
    with pytest.raises(Refusal, match="RankedLists needs columns 'paths', the table has"):
        opened(RankedLists(ranked, image="paths"))


def test_a_rank_that_is_null_and_prompts_of_one_picture_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": "p", "image_path": ["a", "b"], "rank": [1, None]}]))
    with pytest.raises(Refusal, match="A picture of the prompt 'p' has no rank"):
        opened(RankedLists(str(tmp_path / "a.json")))
    (tmp_path / "b.json").write_text(json.dumps([{"prompt": "p", "image_path": ["a"], "rank": [1]}]))
    with pytest.raises(Refusal, match="No prompt in .*b.json has two pictures to compare"):
        opened(RankedLists(str(tmp_path / "b.json")))


def test_rankings_cannot_be_streamed(ranked):
    with pytest.raises(Refusal, match="Ranked compares records with one another.*set data.stream to null"):
        Ranked(ranked).stream()
