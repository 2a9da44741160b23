"""VAEs whose latents are normalized by channel: as diffusers' own SDXL pipelines compute them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image
from tiny import pair_folder, saved, saved_xl, vae

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.diffusion.base.latents import latent_statistics, require_known_latents, unscale_latents
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import encode_pairs
from diffpo.diffusion.encode.fingerprint import require_encoded_for
from diffpo.diffusion.model.encoder import Encoder
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.pipeline import load_base
from diffpo.diffusion.model.sampling import decode_latents

MEAN, STD = [1.0, -1.0, 2.0, 0.5], [3.0, 4.0, 5.0, 6.0]
PIXELS = torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def edited(path: str, **settings) -> str:
    file = Path(path, "vae", "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    edited(saved_xl(root / "normalized"), latents_mean=MEAN, latents_std=STD)
    saved_xl(root / "plain")
    saved(root / "sd")
    pair_folder(root / "pairs")
    return root


@pytest.fixture(scope="module")
def pipe(root):
    return load_base(str(root / "normalized"))


def as_given(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


def test_encoding_equals_that_of_diffusers_own_pipeline(pipe):
    """Its image-to-image pipeline; a deviation of zero takes the draw away."""
    mean, std = Encoder.of(pipe).posterior(PIXELS)
    own = StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)
    with torch.no_grad():
        theirs = torch.cat(
            [
                own.prepare_latents(
                    as_given(picture[None]),
                    torch.tensor([0]),
                    1,
                    1,
                    torch.float32,
                    "cpu",
                    torch.Generator().manual_seed(0),
                    add_noise=False,
                )
                for picture in PIXELS
            ]
        )
        noise = torch.randn(1, *mean.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((mean + std * noise) * pipe.vae.config.scaling_factor, theirs, rtol=1e-6, atol=1e-6)


def test_decoding_equals_that_of_diffusers_own_pipeline(pipe):
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": 32, "width": 32}
    latents, pictures = (
        pipe("a red circle", generator=torch.Generator().manual_seed(0), output_type=kind, **options).images
        for kind in ("latent", "np")
    )
    with torch.no_grad():
        ours = pipe.vae.decode(unscale_latents(pipe.vae, latents)).sample
    np.testing.assert_allclose(pipe.image_processor.postprocess(ours, output_type="np"), pictures, rtol=0, atol=1e-6)
    [picture] = decode_latents(pipe, latents)
    assert np.abs(np.asarray(picture, dtype=int) - np.round(pictures[0] * 255)).max() <= 1
    assert isinstance(picture, Image.Image)


def test_what_is_decoded_is_what_was_encoded(pipe):
    mean, _ = Encoder.of(pipe).posterior(PIXELS)
    with torch.no_grad():
        raw = pipe.vae.encode(as_given(PIXELS)).latent_dist.mean
    torch.testing.assert_close(
        unscale_latents(pipe.vae, mean * pipe.vae.config.scaling_factor), raw, rtol=1e-5, atol=1e-5
    )


def test_a_vae_without_normalization_is_only_scaled():
    network, latents = vae(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert latent_statistics(network) is None
    assert torch.equal(unscale_latents(network, latents), latents / network.config.scaling_factor)


def framed(source) -> PairData:
    return PairData(source, framing=Framing(32, flip=False), caption_dropout=0.0, workers=0)


def test_encoded_pairs_are_those_of_the_pictures_and_belong_to_their_normalization(root, tmp_path):
    base = StableDiffusion(str(root / "normalized"))
    found = encode_pairs(base, framed(PairFolder(str(root / "pairs"))), tmp_path / "encoded")
    assert (found["latents_mean"], found["latents_std"]) == (MEAN, STD)
    model, encoded = base.load(), framed(EncodedPairs(str(tmp_path / "encoded")))
    one, other = (model.first(data.open(0))[0].latents for data in (encoded, framed(PairFolder(str(root / "pairs")))))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    require_encoded_for(base, encoded)
    with pytest.raises(Refusal, match=r"latents_mean was \[1.0, .*\] and is None.*encode the pairs anew"):
        require_encoded_for(StableDiffusion(str(root / "plain")), encoded)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latents_mean": MEAN}, r"needs both latents_mean and latents_std, 4 numbers each"),
        ({"latents_std": STD}, r"needs both latents_mean and latents_std"),
        ({"latents_mean": MEAN[:3], "latents_std": STD}, "4 numbers each"),
        ({"latents_mean": MEAN, "latents_std": [1.0, 0.0, 1.0, 1.0]}, "deviations above 0"),
        ({"shift_factor": 0.5}, "shift_factor 0.5, which pipelines of Stable Diffusion ignore"),
        ({"latent_channels": 16}, "of 16 channels, Stable Diffusion has 4; name another"),
    ],
)
def test_latents_that_no_pipeline_decodes_are_refused(settings, said):
    network = vae()
    network.register_to_config(**settings)
    with pytest.raises(Refusal, match=f"x holds a VAE .*{said}"):
        require_known_latents(network, True, "x")


def test_a_pipeline_that_ignores_the_normalization_is_refused(root, tmp_path):
    path = edited(saved(tmp_path / "sd"), latents_mean=MEAN, latents_std=STD)
    with pytest.raises(Refusal, match="latents_mean and latents_std, which a StableDiffusionPipeline ignores"):
        load_base(path, denoises=False)


@pytest.mark.parametrize(("kind", "refused"), [("plain", True), ("sd", False)])
def test_a_scaling_that_is_not_said_is_that_of_sd_and_told_and_refused_of_xl(root, tmp_path, kind, refused, caplog):
    """The VAE's config of Stable Diffusion 1.5 says none."""
    path = (saved_xl if refused else saved)(tmp_path / kind)
    file = Path(path, "vae", "config.json")
    file.write_text(json.dumps({n: v for n, v in json.loads(file.read_text()).items() if n != "scaling_factor"}))
    if refused:
        with pytest.raises(Refusal, match="says no scaling_factor, .* default 0.18215; add it to the VAE's config"):
            load_base(path, denoises=False)
    else:
        assert load_base(path, denoises=False).vae.config.scaling_factor == 0.18215
        assert caplog.messages == [f"{path} holds a VAE that says no scaling_factor; 0.18215, that of SD 1, is taken."]
