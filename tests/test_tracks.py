"""Each objective says whether it learns from pictures or from texts, and neither script takes one of the other."""

from importlib import import_module
from pkgutil import walk_packages

import pytest
from tiny import pair_folder
from tiny_text_runs import SLOW, run_text, text_files

from diffpo.commands import train as train_diffusion_dpo
from diffpo.core.objective import Objective
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, HPDv3, PairFolder, PickAPic
from diffpo.data.pairs import require_track
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.methods.sft import SFT as PictureSFT
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.text.data.pairs import TextData
from diffpo.text.methods.tpo_tree import TPO
from diffpo.text.objective.preference import SequencePreference
from diffpo.train.run import FitConfig

for package in ("diffusion.methods", "text.methods"):
    folder = import_module(f"diffpo.{package}")
    for module in walk_packages(folder.__path__, f"{folder.__name__}."):
        import_module(module.name)


def under(kind: type[Objective]) -> set[type[Objective]]:
    return {kind, *(found for sub in kind.__subclasses__() for found in under(sub))}


@pytest.mark.parametrize(("room", "track"), [("diffpo.diffusion.", "pictures"), ("diffpo.text.", "texts")])
def test_every_objective_says_what_it_learns_from(room, track):
    ours = [kind for kind in under(Objective) if kind.__module__.startswith(room)]
    assert len(ours) > 5
    assert {kind.learns_from for kind in ours} == {track}


def test_an_objective_that_does_not_say_suits_both():
    class Mine(DenoisingPreference):
        learns_from = ""

    for track in ("pictures", "texts"):
        require_track(Mine(), track)


@pytest.mark.parametrize("objective", [DenoisingPreference(), PictureSFT()])
def test_training_on_texts_refuses_an_objective_of_pictures(tmp_path, objective):
    said = r"learns from pictures, here are texts; .*SequencePreference, or run scripts/train_diffusion_dpo.py\.\Z"
    with pytest.raises(Refusal, match=said):
        run_text(text_files(tmp_path), tmp_path / "out", objective=objective)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("objective", [SequencePreference(), TPO()])
def test_training_on_pictures_refuses_an_objective_of_texts(tmp_path, objective):
    said = r"learns from texts, here are pictures; .*DenoisingPreference, or run scripts/train_text_dpo.py\.\Z"
    with pytest.raises(Refusal, match=said):
        train_diffusion_dpo.main(
            objective=objective,
            base=StableDiffusion(str(tmp_path / "base")),
            data=PairData(PairFolder(str(tmp_path / "pairs"))),
            optimizer=SLOW,
            output_dir=tmp_path / "out",
            fit=FitConfig(steps=1),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [PairFolder, HPDv3, PickAPic])
def test_a_language_model_is_not_trained_on_paths_of_pictures(tmp_path, kind):
    with pytest.raises(Refusal, match=f"{kind.__name__} reads pictures, .*; name a source of texts, e.g. .*Columns"):
        TextData(kind(str(pair_folder(tmp_path, n=1))))


def test_columns_may_hold_texts():
    assert TextData(Columns("pairs.jsonl")).source == Columns("pairs.jsonl")
