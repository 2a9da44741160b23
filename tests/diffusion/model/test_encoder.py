import numpy as np
import pytest
import torch
from tiny import picture, saved

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.diffusion.data.batches import PixelBatch
from diffpo.diffusion.model import encoder
from diffpo.diffusion.model.loading import StableDiffusion


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("base") / "sd")


def pixels(*seeds: int) -> torch.Tensor:
    """Noise pictures, one pair per two seeds."""
    pictures = [torch.from_numpy(np.array(picture(size=(32, 32), seed=seed))).permute(2, 0, 1) for seed in seeds]
    return torch.stack(pictures).unflatten(0, (-1, 2)).transpose(0, 1)


def batch(shown: torch.Tensor, chosen: list[str], rejected: list[str] | None = None) -> PixelBatch:
    b = len(chosen)
    sides = (chosen, rejected or chosen)
    return PixelBatch(shown, torch.zeros(2, b, 6), sides, PairLabels.hard(b), (0,) * b, tuple(range(b)))


def encode(model, raw: PixelBatch):
    return model.encode(raw, Draws(0, raw.epoch, raw.row))


def test_latents_are_scaled_samples_of_the_posterior(base):
    model, shown = StableDiffusion(base).load(), pixels(0, 1, 2, 3)
    encoded = encode(model, batch(shown, ["a red circle"] * 2))
    posterior = model.parts.vae.encode(shown[0].float() / 127.5 - 1).latent_dist
    noise = Draws(0, (0, 0), (0, 1)).normal("vae", 4, 8, 8)
    expected = (posterior.mean + posterior.std * noise) * model.parts.vae.config.scaling_factor
    torch.testing.assert_close(encoded.latents[0], expected)


def test_both_sides_share_their_noise_and_pairs_do_not(base):
    model = StableDiffusion(base).load()
    chosen, rejected = encode(model, batch(pixels(0, 0, 0, 0), ["a red circle"] * 2)).latents
    torch.testing.assert_close(chosen, rejected)
    assert not torch.allclose(chosen[0], chosen[1])


def test_large_batches_are_encoded_in_parts(base, monkeypatch):
    model, raw = StableDiffusion(base).load(), batch(pixels(0, 1, 2, 3), ["a red circle"] * 2)
    at_once = encode(model, raw).latents
    seen = []
    vae_encode = model.parts.vae.encode
    monkeypatch.setattr(model.parts.vae, "encode", lambda x: (seen.append(len(x)), vae_encode(x))[1])
    monkeypatch.setattr(encoder, "PIXELS", 3 * 32 * 32)
    torch.testing.assert_close(encode(model, raw).latents, at_once)
    assert seen == [3, 1]


def test_latents_stay_fp32_beside_half_precision_prompts(base):
    encoded = encode(StableDiffusion(base).load(storage=torch.bfloat16), batch(pixels(0, 1), ["a red circle"]))
    assert (encoded.latents.dtype, encoded.cond.states["prompt"].dtype) == (torch.float32, torch.bfloat16)


def test_noise_is_drawn_anew_each_epoch(base):
    model, raw = StableDiffusion(base).load(), batch(pixels(0, 1), ["a red circle"])
    first, again, later = (model.encode(raw, Draws(0, (epoch,), (0,))).latents for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, later)
