import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from diffpo.data.layouts import PickAPic, VoteShares
from diffpo.data.pairs import PairTable
from diffpo.lab.scenes import preferences
from diffpo.lab.scenes.captions import TRAINING_FAMILIES, read_caption
from diffpo.lab.scenes.preferences import ask_scenes, sample_pairs, write_prompts
from diffpo.lab.scenes.scenes import draw_scene


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of renders in place of a base's samples: one in four shows another scene."""

    def draw(pipe, prompts, seeds, steps, guidance):
        rng = np.random.default_rng(seeds[0])
        other = ask_scenes("training", len(prompts))
        asked = [o if s % 4 == 0 else read_caption(p) for p, s, o in zip(prompts, seeds, other, strict=True)]
        return [draw_scene(facts, rng) for facts in asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences, "draw_prompts", draw)
        made = sample_pairs(None, range(200))
    file = tmp_path_factory.mktemp("pairs") / "train.parquet"
    made.to_parquet(file)
    return made, file


def test_a_pair_is_the_same_whatever_is_drawn_beside_it(pairs, monkeypatch):
    drawn = []

    def draw(pipe, prompts, seeds, steps, guidance):
        drawn.extend(zip(prompts, seeds, strict=True))
        return [draw_scene(read_caption(prompt), np.random.default_rng(0)) for prompt in prompts]

    monkeypatch.setattr(preferences, "draw_prompts", draw)
    whole, part = sample_pairs(None, range(40)), sample_pairs(None, [37, 5])
    assert part[0] == whole[37]
    assert part[1] == whole[5]
    assert {seed for _, seed in drawn} == set(range(80))


def test_pairs_hold_pictures_votes_and_who_voted(pairs):
    made, _ = pairs
    for row in made:
        assert row["soft"] == pytest.approx(np.mean(row["votes"]))
        assert row["single"] == row["votes"][0]
        assert len(set(row["voters"])) == len(row["votes"]) == 5
        assert Image.open(BytesIO(row["jpg_0"])).size == (48, 48)
        assert 0 < row["chance"] < 1


def test_who_shows_the_scene_gets_the_votes(pairs):
    made, _ = pairs
    wrong = [row["soft"] for row in made if row["seed_0"] % 4 == 0]
    assert np.mean(wrong) < 0.15


def test_ties_and_close_votes_arise_by_themselves(pairs):
    made, _ = pairs
    assert {1.0, 0.0} < set(made["soft"])
    assert 0 < sum(soft == 0.5 for soft in made["soft"]) < 40


@pytest.mark.parametrize("source", [PickAPic, lambda path: PickAPic(path, label="single"), VoteShares])
def test_the_same_pairs_are_read_in_three_ways(pairs, source):
    made, file = pairs
    table = PairTable(source(str(file)), [], seed=0)
    decided = [row.prob for row in (table[i] for i in range(len(table))) if row.prob != 0.5]
    assert len(table) == len(made)
    assert sum(prob < 1 for prob in decided) > 0 if source is VoteShares else set(decided) == {1.0}


def test_prompts_share_no_scene(tmp_path):
    write_prompts(tmp_path, 40, 50)
    prompts = {
        name: [json.loads(line)["prompt"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("development", "evaluation")
    }
    assert [len(set(some)) for some in prompts.values()] == [40, 50]
    for name, some in prompts.items():
        assert {read_caption(prompt).part for prompt in some} == {name}
    families = {TRAINING_FAMILIES[i](read_caption(prompts["evaluation"][0])) for i in range(len(TRAINING_FAMILIES))}
    assert prompts["evaluation"][0] not in families
