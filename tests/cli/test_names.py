import inspect
from importlib import import_module

import pytest

from diffpo.cli.names import (
    find_public_path,
    import_names,
    list_names,
    read_faces,
    suggest_names,
    suggest_search,
    track_of,
)
from diffpo.commands.train import main as train
from diffpo.commands.train_text import main as train_text
from diffpo.diffusion.methods.smpo import SmPO
from diffpo.losses.logistic import Sigmoid
from diffpo.text.methods.sft import SFT


def test_stubs_say_which_module_defines_a_name():
    faces = read_faces()
    assert faces["diffpo.losses"]["Sigmoid"] == "diffpo.losses.logistic"
    assert faces["diffpo"]["fit"] == "diffpo.train.fit"


@pytest.mark.parametrize("room", read_faces())
def test_the_public_path_of_a_class_leads_to_it(room):
    for name in read_faces()[room]:
        thing = getattr(import_module(room), name)
        if inspect.isclass(thing):
            found, _, last = find_public_path(thing).rpartition(".")
            assert getattr(import_module(found), last) is thing


def test_what_no_face_hands_on_is_named_by_its_module():
    class Own: ...

    assert find_public_path(Own) == f"{__name__}.{Own.__qualname__}"
    assert find_public_path(Sigmoid) == "diffpo.losses.Sigmoid"
    assert find_public_path(SmPO) == "diffpo.diffusion.methods.SmPO"
    assert find_public_path(SFT) == "diffpo.text.methods.SFT"


def test_a_command_belongs_to_the_track_of_its_arguments():
    assert track_of(inspect.signature(train)) == "diffpo.diffusion"
    assert track_of(inspect.signature(train_text)) == "diffpo.text"
    assert track_of(inspect.signature(lambda x: x)) is None


def test_names_of_the_other_track_do_not_count():
    assert list_names("diffpo.diffusion")["SFT"] == "diffpo.diffusion.methods"
    assert list_names("diffpo.text")["SFT"] == "diffpo.text.methods"
    assert "SmPO" not in list_names("diffpo.text")
    assert "Sigmoid" in list_names("diffpo.text")


def test_only_names_that_stand_alone_are_imported(monkeypatch):
    asked = []
    monkeypatch.setattr("diffpo.cli.names.import_module", lambda room: asked.append(room) or import_module(room))
    import_names("--loss IPO --other x.Sigmoid ./Hinge Nobody", None)
    assert asked == ["diffpo.losses"]


def test_a_misspelt_name_gets_the_close_ones():
    assert suggest_names("no such class: IPOO", None)[0] == "diffpo.losses.IPO"
    assert suggest_names("fine: IPO", None) == []


@pytest.mark.parametrize("name", ["mine", "mine.py"])
def test_a_module_of_this_folder_that_is_not_found_is_told_how_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    said = "Problem with given class_path 'mine.Loss': No module named 'mine'"
    assert (suggest_search(said) or "").startswith("Python finds no mine; install it, or name the folder")
    (tmp_path / name).mkdir()
    assert (suggest_search(said) or "").endswith("begin the line with `python -m diffpo`.")


def test_errors_of_other_kinds_and_rooms_that_are_not_there_say_nothing_of_modules():
    assert suggest_search("No module named 'diffpo.lossess'") is None
    assert suggest_search("Key 'betta' is not expected") is None
