import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import pipeline

from diffpo.data.files.pictures import read_image
from diffpo.data.layouts import PickAPic
from diffpo.data.pairs import PairTable
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES, read_caption
from diffpo.lab.shapes.preferences import Split, build_record, sample_pairs, split_scenes, write_prompts
from diffpo.lab.shapes.scenes import BACKGROUNDS, HUES, POSITIONS, SHAPES, SIZES, random_scene, render


def unsized(scenes) -> set:
    return {replace(scene, size=None) for scene in scenes}


def prompts(folder, part: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def samples(pairs: int = 3, seed: int = 0):
    return sample_pairs(pipeline(), split_scenes().training, pairs, steps=1, guidance=2.0, seed=seed)


def test_the_parts_share_no_scene_and_cover_all():
    split = split_scenes()
    parts = [unsized(part) for part in (split.training, split.development, split.evaluation)]
    assert [len(part) for part in parts] == [600 - 164, 64, 100]
    assert len(set.union(*parts)) == len(HUES) * len(SHAPES) * len(BACKGROUNDS) * len(POSITIONS) == 600


def test_the_split_is_fixed_by_its_seed():
    assert split_scenes(3) == split_scenes(3)
    assert split_scenes(3) != split_scenes(4)


def test_a_third_of_the_held_out_prompts_states_a_size():
    split = split_scenes()
    held_out = [*split.development, *split.evaluation]
    assert np.mean([scene.size in SIZES for scene in held_out]) == pytest.approx(1 / 3, abs=0.1)
    assert all(scene.size is None for scene in split.training)


def test_evaluation_prompts_are_of_the_unseen_family(tmp_path):
    split = split_scenes()
    write_prompts(split, tmp_path)
    written = prompts(tmp_path, "evaluation")
    assert [read_caption(prompt) for prompt in written] == split.evaluation
    assert written == [EVALUATION_FAMILY(scene) for scene in split.evaluation]
    assert not {family(scene) for family in TRAINING_FAMILIES for scene in split.evaluation} & set(written)


def test_development_prompts_are_of_all_training_families(tmp_path):
    split = split_scenes()
    write_prompts(split, tmp_path)
    written = prompts(tmp_path, "development")
    assert [read_caption(prompt) for prompt in written] == split.development
    of_family = [
        next(i for i, family in enumerate(TRAINING_FAMILIES) if family(scene) == prompt)
        for scene, prompt in zip(split.development, written, strict=True)
    ]
    assert set(of_family) == set(range(len(TRAINING_FAMILIES)))


def test_prompts_are_the_same_each_time(tmp_path):
    for folder in ("a", "b"):
        write_prompts(Split([], split_scenes().development, []), tmp_path / folder)
    assert prompts(tmp_path / "a", "development") == prompts(tmp_path / "b", "development")


def test_pairs_read_as_pick_a_pic(tmp_path):
    samples().to_parquet(tmp_path / "train.parquet")
    table = PairTable(PickAPic(str(tmp_path / "train.parquet")), [], seed=0)
    assert len(table) == 3
    for i in range(3):
        assert read_caption(table[i].prompts[0]).color in HUES
        assert [read_image(side.read()).size for side in table[i].candidates] == [(32, 32)] * 2


def test_labels_are_wins_losses_or_ties():
    made = samples(pairs=8)
    assert set(made["label_0"]) <= {0.0, 0.5, 1.0}
    assert all(a + b == 1 for a, b in zip(made["label_0"], made["label_1"], strict=True))


def test_every_picture_has_a_seed_of_its_own():
    made = samples()
    assert [*made["seed_0"], *made["seed_1"]] == [0, 2, 4, 1, 3, 5]
    assert made[0]["jpg_0"] != made[0]["jpg_1"]


def test_pairs_are_the_same_each_time():
    assert samples().to_dict() == samples().to_dict()
    assert samples()["caption"] != samples(seed=1)["caption"]


def test_pairs_ask_only_for_scenes_they_were_given():
    given = split_scenes().training[:2]
    made = sample_pairs(pipeline(), given, 6, steps=1, guidance=2.0)
    assert unsized(read_caption(caption) for caption in made["caption"]) <= set(given)


def test_the_better_picture_wins():
    rng = np.random.default_rng(0)
    asked = split_scenes().training[0]
    wrong = replace(asked, color=next(name for name in HUES if name != asked.color))
    good, bad = (render(random_scene(a, np.random.default_rng(1))) for a in (asked, wrong))
    for pair, label in (((good, bad), 1.0), ((bad, good), 0.0)):
        labels = [build_record("caption", pair, asked, 0, rng)["label_0"] for _ in range(30)]
        assert labels.count(label) > labels.count(1 - label) + 10
