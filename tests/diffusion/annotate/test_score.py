import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from brightness import Brightness
from damage import DAMAGES
from shards import png
from tiny import pair_folder

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, PairFolder, PickAPic
from diffpo.data.pairs import PairTable
from diffpo.data.row_maps import ScoreLabel
from diffpo.data.rows import DropTies
from diffpo.data.typed import MARKED, SEVERAL, Captions
from diffpo.diffusion.annotate.score import score_pairs
from diffpo.storage import job_folder as workfolder
from diffpo.storage.job_folder import JobFolder

BLACK, GRAY, WHITE, TORN = png((0, 0, 0)), png((102, 102, 102)), png((255, 255, 255)), b"torn"
PAIRS = [  # the winner by the label, and its brightness against the other
    (GRAY, BLACK, 1.0),
    (WHITE, GRAY, 0.0),
    (WHITE, WHITE, 1.0),
    (BLACK, WHITE, 0.5),
    (TORN, GRAY, 1.0),
]


@pytest.fixture
def source(tmp_path):
    first, second, labels = map(list, zip(*PAIRS, strict=True))
    data = {"jpg_0": first, "jpg_1": second, "label_0": labels, "caption": [f"p{i}" for i in range(len(PAIRS))]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "pairs.parquet")
    return PickAPic(str(tmp_path / "pairs.parquet"))


def rows(folder, maps=()):
    table = PairTable(Columns(str(folder)), list(maps), seed=0)
    return [table[i] for i in range(len(table))], table.dropped


def test_the_summary_by_hand(source, tmp_path):
    """Chosen above rejected, below, equal; a tie and a torn picture do not count for the agreement."""
    found = score_pairs(Brightness(), source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found
    assert {"scorer": "brightness", "model_id": "none", "version": "mean", "raw": False}.items() <= found.items()
    assert {
        "min": 0.0,
        "max": 255.0,
        "count": 9,
        "unreadable": 1,
        "agreement": 0.5,
        "pairs": 5,
    }.items() <= found.items()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "files.json",
        "scores.json",
        "train-00000-of-00001.parquet",
    ]


def test_the_chosen_side_stays_the_sources_and_ties_stay_ties(source, tmp_path):
    score_pairs(Brightness(), source, tmp_path / "out")
    found, _ = rows(tmp_path / "out")
    assert [(row.extra["score_chosen"], row.extra["score_rejected"]) for row in found] == [
        (102, 0),
        (102, 255),
        (255, 255),
        (0, 255),
        (None, 102),
    ]
    assert [row.prob for row in found] == [1.0, 1.0, 1.0, 0.5, 1.0]
    assert found[1].candidates[0].read()["bytes"] == GRAY


def test_training_on_the_scores_turns_pairs_and_drops_the_unreadable_one(source, tmp_path):
    found = score_pairs(Brightness(), source, tmp_path / "out")
    label = ScoreLabel(low=found["min"], high=found["max"])
    kept, dropped = rows(tmp_path / "out", [label])
    assert [row.scores for row in kept] == [(102, 0), (255, 102), (255, 255), (255, 0)]
    assert kept[1].candidates[0].read()["bytes"] == WHITE
    assert kept[2].prob == 0.5
    assert dropped == {"ScoreLabel": 1}


def test_rows_that_maps_drop_are_not_scored(source, tmp_path):
    found = score_pairs(Brightness(), source, tmp_path / "out", [DropTies()])
    assert (found["pairs"], found["count"], found["rows"]) == (4, 7, ["DropTies()"])


class Stopped(Exception):
    pass


class Breaking(Brightness):
    """Fails at its third batch."""

    def __call__(self, prompts, candidates):
        if len(self.log.read_text().splitlines()) >= 4:
            raise Stopped
        return super().__call__(prompts, candidates)


def test_what_was_scored_before_a_stop_is_not_scored_again(tmp_path):
    folder, log = PairFolder(str(pair_folder(tmp_path / "pairs", n=5))), tmp_path / "log"
    log.write_text("")
    with pytest.raises(Stopped):
        score_pairs(Breaking(log), folder, tmp_path / "out", batch_size=2)
    assert len(log.read_text().splitlines()) == 4
    assert not list((tmp_path / "out").glob("*.parquet"))
    score_pairs(Brightness(log), folder, tmp_path / "out", batch_size=2)
    scored = log.read_text().splitlines()
    assert len(scored) == len(set(scored)) == 10


def test_a_stop_while_shards_are_written_scores_nothing_again(tmp_path, monkeypatch):
    folder, log = PairFolder(str(pair_folder(tmp_path / "pairs", n=3))), tmp_path / "log"
    stopped_at_the_end(monkeypatch, Brightness(log), folder, tmp_path / "out")
    score_pairs(Brightness(log), folder, tmp_path / "out")
    assert len(log.read_text().splitlines()) == 6
    assert len(rows(tmp_path / "out")[0]) == 3


def stopped_at_the_end(monkeypatch, *work) -> None:
    def finish(*_):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(JobFolder, "finish", finish)
        with pytest.raises(Stopped):
            score_pairs(*work)


def test_a_finished_folder_is_left_alone_and_other_work_in_it_refused(source, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    first = score_pairs(Brightness(log), source, out)
    assert score_pairs(Brightness(log), source, out) == first
    assert len(log.read_text().splitlines()) == 9
    with pytest.raises(Refusal, match="out holds results of something else: version was 'mean' and is 'other'"):
        score_pairs(Brightness(version="other"), source, out)


def test_unfinished_work_of_another_scorer_or_source_is_refused(source, tmp_path, monkeypatch):
    stopped_at_the_end(monkeypatch, Brightness(), source, tmp_path / "out")
    with pytest.raises(Refusal, match="version was 'mean' and is 'other'; choose another output_dir"):
        score_pairs(Brightness(version="other"), source, tmp_path / "out")
    shutil.copy(tmp_path / "pairs.parquet", tmp_path / "same.parquet")
    with pytest.raises(Refusal, match="source was .*pairs.parquet.* and is .*same.parquet"):
        score_pairs(Brightness(), PickAPic(str(tmp_path / "same.parquet")), tmp_path / "out")


def test_a_folder_with_something_else_in_it_is_refused(source, tmp_path):
    with pytest.raises(Refusal, match="is not empty: it holds .*choose another output_dir"):
        score_pairs(Brightness(), source, tmp_path)


class Unusable(Brightness):
    def check(self, prompts):
        raise Refusal(f"cannot judge {sorted(prompts)}")


def test_a_scorer_that_cannot_judge_leaves_the_folder_free_for_another(source, tmp_path):
    with pytest.raises(Refusal, match=r"cannot judge \['p0', 'p1', 'p2', 'p3', 'p4'\]"):
        score_pairs(Unusable(version="unusable"), source, tmp_path / "out")
    score_pairs(Brightness(), source, tmp_path / "out")


def test_a_disk_that_is_too_small_is_told_before_any_work(source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(workfolder.shutil, "disk_usage", lambda folder: usage(free=100))
    with pytest.raises(Refusal, match="need about 0.00 GiB, the disk of .*out has 0.00 GiB free"):
        score_pairs(Unusable(), source, tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="output_dir .*file is a file; choose another"):
        score_pairs(Brightness(), source, tmp_path / "file")


class Overflowing(Brightness):
    def __call__(self, prompts, candidates):
        return super().__call__(prompts, candidates) * float("nan")


def test_a_score_that_is_no_number_is_an_error(source, tmp_path):
    with pytest.raises(Refusal, match="brightness gives nan to a picture of 'p0'; let the scorer compute in float32"):
        score_pairs(Overflowing(), source, tmp_path / "out")


def test_each_side_is_scored_for_its_own_prompt(tmp_path):
    asked = []

    class Asked(Brightness):
        def __call__(self, prompts, candidates):
            asked.extend(prompts)
            return super().__call__(prompts, candidates)

    data = {"a": ["w"], "b": ["l"], "chosen": [GRAY], "rejected": [BLACK]}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    source = Columns(str(tmp_path / "a.parquet"), prompt_chosen="a", prompt_rejected="b")
    score_pairs(Asked(), source, tmp_path / "out")
    assert asked == ["w", "l"]


class Short(Brightness):
    """Reads two words."""

    def count_cut(self, prompts):
        return sum(len(prompt.split()) > 2 for prompt in prompts)


def table(path, **changed):
    data = {"prompt": ["a", "b"], "chosen": [GRAY, WHITE], "rejected": [BLACK, GRAY]}
    pq.write_table(pa.table(data | changed), path)
    return Columns(str(path))


def test_prompts_that_the_scorer_cuts_are_counted_once_each(tmp_path):
    source = table(tmp_path / "a.parquet", prompt=["one two three", "one two"])
    found = score_pairs(Short(), source, tmp_path / "out")
    assert (found["prompts"], found["cut"]) == (2, 1)
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["cut"] == 1
    whole = score_pairs(Brightness(), source, tmp_path / "other")
    assert (whole["prompts"], whole["cut"]) == (2, 0)


@pytest.mark.parametrize(
    "prompts",
    [
        [1, 2],
        [1.5, None],
        [True, False],
        [b"a", b"b"],
        [{"en": "a"}] * 2,
        [[1], [2]],
        ['[{"role": 1, "content": 2}]'] * 2,
    ],
)
def test_what_is_no_prompt_is_neither_scored_nor_written(tmp_path, prompts):
    with pytest.raises(Refusal, match=r"^Row 0 has .*, of type \w+; "):
        score_pairs(Brightness(), table(tmp_path / "a.parquet", prompt=prompts), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_prompt_of_both_sides_is_checked_before_anything_is_scored(tmp_path):
    own = {"c": ["a", "b"], "r": ["x", "y"]}
    source = replace(table(tmp_path / "a.parquet", **own, prompt=[1, 2]), prompt_chosen="c", prompt_rejected="r")
    with pytest.raises(Refusal, match=r"^Row 0 has prompt = 1, of type int; a prompt is a text"):
        score_pairs(Brightness(), source, tmp_path / "out")


class Told(Brightness):
    """Writes down the prompts that it is asked about."""

    def __call__(self, prompts, candidates):
        Path(self.version).write_text(json.dumps(prompts))
        return super().__call__(prompts, candidates)


@pytest.mark.parametrize("own", [False, True])
def test_of_several_captions_the_first_is_scored_and_all_are_kept(tmp_path, own):
    lists = [["a", "\ufeffb"], ["c"]]
    source = table(tmp_path / "a.parquet", prompt=lists, r=[["x"], ["y", "z"]])
    if own:
        source = replace(source, prompt_chosen="prompt", prompt_rejected="r")
    found = score_pairs(Told(version=str(tmp_path / "asked")), source, tmp_path / "out")
    assert json.loads((tmp_path / "asked").read_text()) == (["a", "x", "c", "y"] if own else ["a", "a", "c", "c"])
    assert found["notes"] == {SEVERAL: 2 if own else 1, MARKED: 1}
    scored = Columns(str(tmp_path / "out"))
    if own:
        scored = replace(scored, prompt_chosen="prompt_chosen", prompt_rejected="prompt_rejected")
    opened = PairTable(scored, [], seed=0)
    first = Captions(["a", "b"])
    assert opened[0].prompts == (first, Captions(["x"]) if own else first)
    assert opened[1].prompts == (Captions(["c"]), Captions(["y", "z"] if own else ["c"]))


def test_pictures_in_structs_and_lists_are_stored_as_their_bytes(tmp_path):
    for number, wrap in enumerate((lambda x: {"data": x, "format": "png"}, lambda x: [{"bytes": x, "path": "p.png"}])):
        source = table(tmp_path / f"{number}.parquet", chosen=[wrap(GRAY), wrap(WHITE)])
        score_pairs(Brightness(), source, tmp_path / f"{number}")
        found, _ = rows(tmp_path / f"{number}")
        assert [row.candidates[0].read()["bytes"] for row in found] == [GRAY, WHITE]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "scores.json"])
def test_a_damaged_file_of_scored_pairs_is_one_line(source, tmp_path, name, damage):
    score_pairs(Brightness(), source, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out" / name, 4)
    with pytest.raises(Refusal, match=f"{name} .*copy it again") as refused:
        Columns(str(tmp_path / "out")).open()
    assert "\n" not in str(refused.value)


def test_scores_of_a_finished_folder_are_not_found_anew_for_one_damaged_file(source, tmp_path):
    score_pairs(Brightness(), source, tmp_path / "out")
    (tmp_path / "out" / "train-00000-of-00001.parquet").write_bytes(b"")
    with pytest.raises(Refusal, match=r"train-00000-of-00001.parquet has 0 bytes.*; copy it again, or remove it"):
        score_pairs(Brightness(), source, tmp_path / "out")
