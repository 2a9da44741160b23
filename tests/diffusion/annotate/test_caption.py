import json

import datasets
import pyarrow.parquet as pq
import pytest
from brightness import Brightness
from shards import png
from tiny_speakers import Colors, Shouted

from diffpo.annotators.captioners.roles import Strategy, Strength
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, PickAPic
from diffpo.data.pairs import PairTable
from diffpo.data.rows import DropTies
from diffpo.diffusion.annotate.caption import NAMES, caption_pairs
from diffpo.diffusion.annotate.caption_texts import Plan

TOKENIZER = "assets/tiny-sd/tokenizer"
PAIRS = [((255, 0, 0), (0, 0, 255), 1.0), ((255, 0, 0), (9, 0, 0), 0.0), (b"torn", (0, 0, 255), 0.5)]


@pytest.fixture
def source(tmp_path):
    first, second, labels = map(list, zip(*PAIRS, strict=True))
    pictures = [[c if isinstance(c, bytes) else png(c) for c in side] for side in (first, second)]
    data = {"jpg_0": pictures[0], "jpg_1": pictures[1], "label_0": labels, "caption": ["p", "q", "r"]}
    datasets.Dataset.from_dict(data | {"user_id": [7, 8, 9]}).to_parquet(tmp_path / "pairs.parquet")
    return PickAPic(str(tmp_path / "pairs.parquet"))


def captioned(source, output_dir, plan=None, **options):
    return caption_pairs(plan or Plan(Strategy.caption, Colors()), source, output_dir, tokenizer=TOKENIZER, **options)


def rows(folder):
    table = PairTable(Columns(str(folder)), [], seed=0)
    return [table[i] for i in range(len(table))]


def test_pairs_keep_what_they_were_and_get_captions(source, tmp_path):
    captioned(source, tmp_path / "out")
    first, second, third = rows(tmp_path / "out")
    assert [first.extra[name] for name in NAMES] == ["255 in red", "0 in red", "255 in\nred", "0 in\nred", None]
    assert (second.extra["caption_chosen"], second.extra["caption_rejected"]) == ("9 in red", "255 in red")
    assert (third.extra["caption_chosen"], third.extra["caption_rejected"]) == (None, "0 in red")
    assert [row.prob for row in (first, second, third)] == [1.0, 1.0, 0.5]
    assert [row.prompts for row in (first, second)] == [("p", "p"), ("q", "q")]
    assert (second.extra["user_id"], second.extra["label_0"]) == (8, 0.0)
    assert second.candidates[0].read()["bytes"] == png((9, 0, 0))


def test_the_summary_is_kept_and_says_who_spoke(source, tmp_path):
    found = captioned(source, tmp_path / "out", scorer=Brightness())
    assert json.loads((tmp_path / "out" / "captions.json").read_text()) == found
    assert {"strategy": "caption", "strength": None, "pairs": 3, "fallback": 1, "limit": 24}.items() <= found.items()
    assert found["speakers"] == [{"kind": "colors", "version": "1"}]
    assert (found["gap"]["pairs"], found["gap"]["cut"], found["notes"]) == (2, 0, {})
    assert found["gap"]["mean"] == (0.0 + (9 - 255) / 3) / 2
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["captions.json", "files.json", "train-00000-of-00001.parquet"]


def test_captions_of_one_run_are_perturbed_by_the_next(source, tmp_path):
    captioned(source, tmp_path / "out")
    plan = Plan(Strategy.perturb, None, Shouted(), Strength.strong, ("caption_chosen", "caption_rejected"))
    found = captioned(Columns(str(tmp_path / "out")), tmp_path / "hybrid", plan)
    first, _, third = rows(tmp_path / "hybrid")
    assert [first.extra[name] for name in NAMES] == ["255 in red", "0 IN RED!!!", None, "0 IN RED!!!", "0 in red"]
    assert (third.extra["caption_chosen"], third.extra["caption_rejected"]) == (None, "0 IN RED!!!")
    assert (found["strength"], found["fallback"]) == ("strong", 1)
    schema = pq.ParquetFile(tmp_path / "hybrid" / "train-00000-of-00001.parquet").schema_arrow.names
    assert len(schema) == len(set(schema))


def test_a_finished_folder_is_left_alone_and_other_work_in_it_refused(source, tmp_path):
    captioner = Colors()
    first = captioned(source, tmp_path / "out", Plan(Strategy.caption, captioner))
    asked = len(captioner.asked)
    assert captioned(source, tmp_path / "out", Plan(Strategy.caption, captioner)) == first
    assert len(captioner.asked) == asked
    with pytest.raises(Refusal, match="speakers was .*'version': '1'.* and is .*'version': '2'"):
        captioned(source, tmp_path / "out", Plan(Strategy.caption, Colors(version="2")))


class Stopped(Exception):
    pass


class Breaking(Colors):
    def __call__(self, pictures, prompts, seeds):
        if len(self.asked) >= 2:
            raise Stopped
        return super().__call__(pictures, prompts, seeds)


def test_after_a_stop_nothing_is_asked_again(source, tmp_path):
    first, second = Breaking(), Colors()
    with pytest.raises(Stopped):
        captioned(source, tmp_path / "out", Plan(Strategy.caption, first), batch_size=2)
    captioned(source, tmp_path / "out", Plan(Strategy.caption, second), batch_size=2)
    assert len(first.asked) == 2
    assert len(second.asked) == 3
    assert len({asked[:2] for asked in first.asked + second.asked}) == 5


def test_rows_that_maps_drop_are_not_captioned(source, tmp_path):
    found = captioned(source, tmp_path / "out", rows=[DropTies()])
    assert (found["pairs"], found["captions"], found["fallback"]) == (2, 4, 0)


class Unusable(Colors):
    def check(self):
        raise Refusal("no weights")


def test_a_speaker_that_cannot_be_used_leaves_the_folder_free(source, tmp_path):
    with pytest.raises(Refusal, match="no weights"):
        captioned(source, tmp_path / "out", Plan(Strategy.caption, Unusable()))
    captioned(source, tmp_path / "out")


def test_a_folder_with_something_else_in_it_is_refused(source, tmp_path):
    with pytest.raises(Refusal, match="is not empty: it holds .*choose another output_dir"):
        captioned(source, tmp_path)
