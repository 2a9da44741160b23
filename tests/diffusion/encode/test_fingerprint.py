import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from single_file import save_single_file
from tiny import pipeline, saved, saved_xl

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.fingerprint import list_encoders, require_encoded_for
from diffpo.diffusion.model.loading import StableDiffusion


@pytest.fixture
def base(tmp_path) -> StableDiffusion:
    return StableDiffusion(saved(tmp_path / "base"))


def changed_weights(file: Path) -> None:
    weights = load_file(file)
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1e-3}, file, metadata={"format": "pt"})


def differing(one: StableDiffusion, other: StableDiffusion) -> set[str]:
    before, after = list_encoders(one), list_encoders(other)
    return {key for key in before if before[key] != after[key]}


def test_weights_are_known_wherever_they_lie_and_whatever_the_unet_is(base, tmp_path):
    shutil.copytree(base.path, tmp_path / "copy")
    changed_weights(tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors")
    assert not differing(base, replace(base, path=str(tmp_path / "copy"), unet="elsewhere"))


@pytest.mark.parametrize(
    ("file", "noticed"),
    [
        ("vae/diffusion_pytorch_model.safetensors", "vae"),
        ("text_encoder/model.safetensors", "text_encoders"),
    ],
)
def test_a_part_that_was_retrained_at_its_path_is_noticed(base, tmp_path, file, noticed):
    shutil.copytree(base.path, tmp_path / "copy")
    changed_weights(tmp_path / "copy" / file)
    assert differing(base, replace(base, path=str(tmp_path / "copy"))) == {noticed}


def test_the_same_vae_named_apart_is_the_same_and_another_one_is_not(base):
    assert not differing(base, replace(base, vae=base.path))
    assert differing(base, replace(base, vae="someone/vae")) == {"vae"}


def test_a_variant_is_its_own_weights(base):
    vae = Path(base.path) / "vae"
    shutil.copy(vae / "diffusion_pytorch_model.safetensors", vae / "diffusion_pytorch_model.fp16.safetensors")
    changed_weights(vae / "diffusion_pytorch_model.fp16.safetensors")
    assert "vae" in differing(base, replace(base, variant="fp16"))
    before = list_encoders(base)
    changed_weights(vae / "diffusion_pytorch_model.fp16.safetensors")
    assert list_encoders(base) == before


def test_what_an_empty_prompt_becomes_belongs_to_it(tmp_path):
    one, other = (StableDiffusion(saved_xl(tmp_path / str(zeros), force_zeros=zeros)) for zeros in (True, False))
    assert differing(one, other) == {"empty_prompt_is_zeros"}


def test_a_single_file_is_known_by_its_content(base, tmp_path):
    save_single_file(pipeline(), tmp_path / "a.safetensors")
    single = StableDiffusion(str(tmp_path / "a.safetensors"), config=base.path)
    found = list_encoders(single)
    assert found["vae"] == found["text_encoders"]
    assert found["single_file_config"] == base.path


def test_training_another_vae_is_refused_and_pictures_are_not_asked(base, tmp_path):
    (tmp_path / "encoded").mkdir()
    (tmp_path / "encoded" / "encoding.json").write_text(json.dumps(list_encoders(base)))
    data = PairData(EncodedPairs(str(tmp_path / "encoded")))
    require_encoded_for(base, data)
    with pytest.raises(Refusal, match="vae was 'sha256 .*' and is 'some/vae'; encode the pairs anew with scripts"):
        require_encoded_for(replace(base, vae="some/vae"), data)
    require_encoded_for(StableDiffusion("no/such"), PairData(PairFolder("x")))
