from functools import cache

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionPipeline

from diffpo.lab.scenes.bases import FLOW, UNET, Muon, encode_scenes, load_scene_base, random_scenes, train_denoiser
from diffpo.lab.scenes.build import build_tokenizer
from diffpo.lab.scenes.captions import TRAINING_FAMILIES
from diffpo.lab.scenes.reading import draw_asked
from diffpo.lab.worlds.scenes import save_halved

scene_tokenizer = cache(build_tokenizer)
KINDS = {"unet": (UNET, StableDiffusionPipeline), "flow": (FLOW, StableDiffusion3Pipeline)}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained("assets/tiny-sd", subfolder="vae", dtype=torch.float32).eval()
    vae.register_to_config(shift_factor=0.0)
    return vae


@pytest.fixture(scope="module")
def shown(vae):
    with torch.no_grad():
        return encode_scenes(vae, 32)


def test_encoded_scenes_are_those_of_the_seed(shown):
    assert shown.facts == random_scenes(32)
    assert shown.means.shape == shown.deviations.shape == (32, 4, 12, 12)


@pytest.mark.parametrize("name", KINDS)
def test_a_base_learns_saves_and_draws_by_plain_diffusers(name, vae, shown, tmp_path):
    kind, pipeline = KINDS[name]
    losses, seen = [], []

    def loss(*args):
        losses.append(kind.loss(*args))
        return losses[-1]

    watched = type(kind)(kind.name, kind.untrained, kind.trained, loss)
    untrained = kind.untrained(vae, scene_tokenizer(), 0)
    trained = train_denoiser(untrained, watched, shown, 25, lambda step, pipe: seen.append(step), every=10, batch=16)
    assert seen == [10, 20, 25]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:3]) * 5 / 3
    save_halved(trained, tmp_path / name)
    loaded = load_scene_base(tmp_path / name)
    assert type(loaded) is pipeline
    (picture,) = draw_asked(loaded, random_scenes(1), TRAINING_FAMILIES, steps=2)
    assert picture.size == (48, 48)


def test_the_same_seed_trains_the_same_base(vae, shown):
    first, second = (
        train_denoiser(UNET.untrained(vae, scene_tokenizer(), 0), UNET, shown, 2, batch=4).unet.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("precision", "close"), [(torch.bfloat16, 0.0), (torch.float32, 2e-3)])
def test_muon_is_that_of_torch_in_bf16_and_near_it_in_fp32(precision, close):
    drawn = torch.Generator().manual_seed(0)
    for shape in ((24, 40), (40, 24)):
        ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
        muon = Muon([ours], 1e-2, 0.01, precision)
        known = torch.optim.Muon([theirs], 1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        for _ in range(4):
            ours.grad = torch.randn(shape, generator=drawn)
            theirs.grad = ours.grad.clone()
            muon.step()
            known.step()
        assert (ours - theirs).abs().max() <= close
        assert (ours - 1).abs().max() > 0.01
