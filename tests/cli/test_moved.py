import pytest

from diffpo.cli.moved import NAMES, PACKAGE, ROOMS, find_moved, find_new_path, find_old_options, rename_moved
from diffpo.cli.names import read_faces


def test_every_old_room_leads_to_a_face():
    assert set(ROOMS.values()) <= set(read_faces())


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_every_old_name_leads_to_a_name_of_a_face(old, new):
    room, _, name = new.rpartition(".")
    assert name in read_faces()[room]
    assert old.endswith(f".{name}")


def test_an_old_path_has_one_new_one():
    assert find_new_path("diffpo.sources.PickAPic") == "diffpo.data.PickAPic"
    assert find_new_path("diffpo.adapters.LoRA") == "diffpo.diffusion.LoRA"
    assert find_new_path("diffpo.data.PickAPic") == "diffpo.data.PickAPic"
    assert find_new_path("torch.optim.AdamW") == "torch.optim.AdamW"


def test_paths_that_lead_nowhere_now_are_found_in_a_text():
    text = "objective: diffpo.diffusion.objective.DenoisingPreference\nloss: diffpo.losses.logistic.Sigmoid"
    assert find_moved(text) == [
        ("diffpo.diffusion.objective.DenoisingPreference", "diffpo.diffusion.DenoisingPreference")
    ]
    assert (PACKAGE / "losses" / "logistic.py").exists()  # so it still names a class


def test_a_whole_config_is_renamed():
    old = {"source": [{"class_path": "diffpo.mixing.Mixed", "path": "diffpo/mixing"}], "n": 3}
    assert rename_moved(old) == {"source": [{"class_path": "diffpo.data.Mixed", "path": "diffpo/mixing"}], "n": 3}


def test_old_options_are_found_on_a_command_line_and_in_its_files():
    new = [("remember", "reference_cache")]
    assert find_old_options(["--remember=runs/a"], "") == find_old_options([], "seed: 1\nremember: runs/a") == new
    assert find_old_options(["--reference_cache=remember"], "  remember: inside") == []
    assert rename_moved({"remember": None, "seed": 1}) == {"reference_cache": None, "seed": 1}
