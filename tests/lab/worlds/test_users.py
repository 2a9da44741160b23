import json

import pytest
from datasets import Dataset
from tiny import saved

from diffpo.cli.command import parse
from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.users.tastes import Population, population
from diffpo.lab.worlds import users as build_users


def build(root, **changed) -> None:
    chosen = {"pictures": 8, "users": 4, "viewers": 2, "held_out": 2, "support": 3, "steps": 1} | changed
    overrides = [f"--{name}={value}" for name, value in chosen.items()]
    arguments, settings = parse(build_users.main, [f"--base={root / 'base'}", f"--output_dir={root}", *overrides])
    build_users.main(**arguments, settings=settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("users")
    saved(root / "base")
    build(root)
    return root


def pairs(world, part: str) -> Dataset:
    return Dataset.from_parquet(str(world / f"{part}.parquet"))


def prompts(world, part: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (world / "prompts" / f"{part}.jsonl").read_text().splitlines()]


def test_held_out_users_never_appear_in_training(world):
    people = Population.read(world / "users.json")
    assert people == population(4, 2)
    assert set(pairs(world, "train")["user_id"]) <= set(people.seen)
    assert set(pairs(world, "held_out")["user_id"]) == set(people.held_out)


def test_every_held_out_user_judges_the_same_pairs_of_other_pictures(world):
    train, held_out = pairs(world, "train"), pairs(world, "held_out")
    assert (len(train), len(held_out)) == (4 * 2, 3 * 2)
    assert held_out["pair_id"] == [0, 0, 1, 1, 2, 2]
    seeds = [{*part["seed_0"], *part["seed_1"]} for part in (train, held_out)]
    assert seeds == [set(range(8)), set(range(8, 14))]


def test_no_pair_is_of_a_request_that_models_are_judged_on(world):
    trained = {read_caption(caption) for part in ("train", "held_out") for caption in pairs(world, part)["caption"]}
    for part, count in (("development", 20), ("evaluation", 30)):
        asked = {read_caption(prompt) for prompt in prompts(world, part)}
        assert len(asked) == count
        assert not asked & trained


def test_a_finished_world_is_not_built_again_and_no_other_goes_over_it(world, monkeypatch):
    monkeypatch.setattr(build_users, "judged_pairs", lambda *a, **k: pytest.fail("built again"))
    build(world)
    with pytest.raises(Refusal, match="holds results of something else: pictures was 8 and is 6"):
        build(world, pictures=6)
