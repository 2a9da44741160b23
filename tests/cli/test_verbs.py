import subprocess
import sys

import pytest

from diffpo.__main__ import VERBS
from diffpo.cli.verbs import Verb, VerbGroup, launch_verb, list_verbs


def every_verb(verbs=VERBS, before="diffpo"):
    for word, verb in verbs.items():
        if isinstance(verb, VerbGroup):
            yield from every_verb(verb.verbs, f"{before} {word}")
        else:
            yield f"{before} {word}", verb


@pytest.mark.parametrize(("said", "verb"), every_verb(), ids=lambda x: x if isinstance(x, str) else "")
def test_every_verb_has_a_main(said, verb):
    module = __import__(verb.module, fromlist=["main"])
    assert callable(module.main)


def test_an_unknown_word_names_the_close_one(capsys):
    with pytest.raises(SystemExit) as left:
        launch_verb("diffpo", VERBS, ["trian"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: diffpo knows no 'trian'; did you mean train?\n"


def test_a_word_like_none_names_all(capsys):
    with pytest.raises(SystemExit):
        launch_verb("x", {"a": Verb("m", "does a"), "b": Verb("m", "does b")}, ["zzz"])
    assert capsys.readouterr().err == "error: x knows no 'zzz'; there are a, b.\n"


def test_a_group_is_asked_by_its_second_word(capsys):
    with pytest.raises(SystemExit):
        launch_verb("diffpo", VERBS, ["convert", "export"])
    assert capsys.readouterr().err == "error: diffpo convert knows no 'export'; did you mean export-lora?\n"


def test_the_words_go_to_the_main_that_takes_them(monkeypatch):
    import diffpo.commands.recipes as recipes

    taken = []
    monkeypatch.setattr(recipes, "main", taken.append)
    launch_verb("diffpo", VERBS, ["recipes", "lora"])
    assert taken == [["lora"]]


def test_help_lists_every_word_with_what_it_does():
    listed = list_verbs("diffpo", VERBS)
    assert all(f"  {word} " in listed and verb.help in listed for word, verb in VERBS.items())


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["trian"],
        ["recipes"],
        ["--version"],
        [],
        ["train", "--config", "sdxl_loar"],
        ["train", "--objective=diffpo.losses.logistic.Sigmoid", "--remember=x"],
    ],
)
def test_what_needs_no_network_loads_none(words):
    show = "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    program = f"import sys, atexit; atexit.register(lambda: {show}); sys.argv[1:] = {words}; "
    program += "from diffpo.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "diffpo" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "jsonargparse"}
