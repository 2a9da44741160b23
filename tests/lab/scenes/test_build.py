import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from diffpo.lab.scenes.build import CONTEXT, build_tokenizer, render_pictures, rescale_channels, tune_vae
from diffpo.lab.scenes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES
from diffpo.lab.scenes.scenes import random_facts


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return render_pictures([random_facts(rng, "training") for _ in range(8)], rng)


def test_each_caption_fits_and_each_word_is_a_token():
    tokenizer, rng = build_tokenizer(), np.random.default_rng(1)
    for _ in range(100):
        facts = random_facts(rng, "evaluation")
        for family in (*TRAINING_FAMILIES, EVALUATION_FAMILY):
            ids = tokenizer(family(facts)).input_ids
            words = family(facts).replace(",", " ,").replace(":", " :").split()
            assert len(ids) == len(words) + 2 <= CONTEXT


def test_rescaled_channels_have_deviation_one_and_the_pictures_stay(pixels):
    vae = AutoencoderKL.from_pretrained("assets/tiny-sd", subfolder="vae", dtype=torch.float32)
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        shown = vae.decode(before.mean).sample
        rescale_channels(vae, before.mean)
        after = vae.encode(pixels).latent_dist
        assert after.mean.std(dim=(0, 2, 3)).numpy() == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(vae.decode(after.mean).sample, shown, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after.std / after.mean.abs(), before.std / before.mean.abs(), atol=1e-3, rtol=1e-2)


def test_a_tuned_vae_sees_scenes_better(pixels):
    before = AutoencoderKL.from_pretrained("assets/tiny-sd", subfolder="vae", dtype=torch.float32)
    after = tune_vae("assets/tiny-sd", steps=12, batch=4)
    assert after.config.scaling_factor == 1
    assert after.config.shift_factor == 0
    with torch.no_grad():
        errors = [(vae(pixels).sample - pixels).abs().mean() for vae in (before, after)]
    assert errors[1] < errors[0]
