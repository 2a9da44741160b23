from pathlib import Path

import pytest

from diffpo.core.refusal import Refusal
from diffpo.storage.shipped import find_recipe, find_shipped, list_recipes, name_recipe, replace_shipped, shipped_root


def test_recipes_are_all_configs_that_a_command_takes():
    names = {name_recipe(path) for path in list_recipes()}
    assert {"quickstart", "diffusion/smpo_sdxl", "text/dpo_lora", "annotate/score"} <= names
    assert not any(name.startswith(("evidence/", "accelerate/")) for name in names)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("sdxl_lora", "diffusion/diffusion_dpo_sdxl_lora"),
        ("smpo_sdxl", "diffusion/smpo_sdxl"),
        ("text/quickstart", "text/quickstart"),
        ("quickstart", "quickstart"),
        ("configs/text/dpo.yaml", "text/dpo"),
    ],
)
def test_a_recipe_is_found_by_name_or_by_its_end(tmp_path, monkeypatch, said, name):
    monkeypatch.chdir(tmp_path)
    assert name_recipe(find_recipe(said)) == name


def test_the_user_s_own_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("seed: 1")
    assert find_recipe("quickstart") == Path("quickstart")


def test_a_name_that_several_recipes_end_with_lists_them():
    with pytest.raises(Refusal, match="Several recipes are called 'tiny': .*encode/tiny.*; name one of them in full"):
        find_recipe("tiny")


def test_a_name_that_none_has_is_refused():
    with pytest.raises(Refusal, match="There is no file and no recipe 'nope'; `diffpo recipes` lists"):
        find_recipe("nope")


def test_a_name_that_is_nearly_one_gets_the_close_one():
    with pytest.raises(Refusal, match="no recipe 'smpo_sdxxl'; did you mean smpo_sdxl"):
        find_recipe("smpo_sdxxl")


def test_paths_that_the_folder_lacks_are_those_that_came_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_shipped("assets/tiny-sd") == shipped_root() / "assets" / "tiny-sd"
    assert find_shipped("assets/none") is None
    assert find_shipped("tiny-sd") is None
    (tmp_path / "assets" / "tiny-sd").mkdir(parents=True)
    assert find_shipped("assets/tiny-sd") is None


@pytest.mark.parametrize("place", ["assets", "assets/evidence", "assets/oracle-check", "configs"])
def test_places_that_commands_write_to_stay_in_the_users_folder(tmp_path, monkeypatch, place):
    """The record of `diffpo evidence` is assets/evidence: from another folder it must not reach a clone's."""
    assert (shipped_root() / place).exists()
    monkeypatch.chdir(tmp_path)
    assert find_shipped(place) is None


def test_what_is_written_is_never_what_came_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {"output_dir": "assets/tiny-sd", "inner": {"output": "assets/tiny-pairs"}}
    assert replace_shipped(tree, {}) == tree


def test_a_config_is_filled_and_what_was_taken_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken: dict[str, str] = {}
    tree = {"base": {"path": "assets/tiny-sd"}, "rows": ["assets/none", 3], "n": None}
    here = str(shipped_root() / "assets" / "tiny-sd")
    assert replace_shipped(tree, taken) == {"base": {"path": here}, "rows": ["assets/none", 3], "n": None}
    assert taken == {"assets/tiny-sd": here}
