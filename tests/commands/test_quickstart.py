import sys

import pytest

from diffpo.commands import quickstart


@pytest.mark.parametrize("own", [[], ["--seed=3"], ["--output_dir", "elsewhere", "--fit.steps=1"]])
def test_it_is_the_training_command_with_its_recipe_and_own_options_win(monkeypatch, own):
    started = []
    monkeypatch.setattr(sys, "argv", ["diffpo"])
    monkeypatch.setattr(quickstart, "launch", lambda main, words, program: started.append((main, words)))
    quickstart.main(own)
    [(main, words)] = started
    assert main is quickstart.train
    assert words[-len(own) :] == own or not own
    assert "--config=quickstart" in words
    assert ("--seed=0" in words) == (own != ["--seed=3"])
    assert ("--output_dir=runs/quickstart" in words) == ("--output_dir" not in own)
    assert sys.argv[:3] == ["-m", "diffpo", "train"]
