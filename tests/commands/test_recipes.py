import pytest

from diffpo.commands.recipes import list_all, main
from diffpo.storage.shipped import list_recipes, name_recipe


def test_every_recipe_has_a_line():
    table = list_all([])
    words = {line.split()[0] for line in table.splitlines() if line}
    assert {name_recipe(path) for path in list_recipes()} <= words


def test_a_line_says_what_is_trained_with_what():
    [line] = [line for line in list_all(["smpo_sdxl"]).splitlines() if line.startswith("diffusion/")]
    words = line.split()
    assert words[:3] == ["diffusion/smpo_sdxl", "diffusion.methods.SmPO", "stabilityai/stable-diffusion-xl-base-1.0"]
    assert "arXiv:2506.02698" in line


def test_training_recipes_name_their_batch_and_gpus():
    for line in list_all(["diffusion/", "text/"]).splitlines():
        if line.startswith(("diffusion/", "text/")) and "tiny" not in line and "quickstart" not in line:
            assert line.split()[3].isdigit(), line


def test_a_word_that_no_recipe_has_is_refused(capsys):
    with pytest.raises(SystemExit, match="error: no recipe's name holds nope"):
        main(["nope"])
