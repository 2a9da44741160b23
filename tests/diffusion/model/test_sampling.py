import numpy as np
import pytest
import torch
from tiny import pipeline

from diffpo.core.refusal import Refusal
from diffpo.diffusion.model import sampling
from diffpo.diffusion.model.sampling import decode_latents, generate_pictures

PROMPTS = ["a red circle", "a blue cross", "a green square"]


def pictures(prompts, seeds, batch_size: int = 16) -> np.ndarray:
    made = generate_pictures(pipeline(), prompts, seeds, steps=2, guidance=2.0, batch_size=batch_size)
    return np.stack([np.asarray(picture, dtype=np.int16) for picture in made])


def test_a_picture_does_not_depend_on_its_batch():
    together = pictures(PROMPTS, [5, 6, 7])
    for size in (1, 2):
        np.testing.assert_allclose(pictures(PROMPTS, [5, 6, 7], batch_size=size), together, atol=1)


def test_a_picture_depends_on_its_own_prompt_and_seed_alone():
    first, second, third = pictures(PROMPTS, [5, 6, 7])
    np.testing.assert_allclose(pictures(PROMPTS[1:], [6, 7]), [second, third], atol=1)
    reseeded, *_ = pictures(PROMPTS, [8, 6, 7])
    assert abs(reseeded - first).max() > 1


def test_the_prompt_matters():
    one, other = pictures(["a red circle", "a blue cross"], [5, 5])
    assert abs(one - other).max() > 0


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    generate_pictures(pipeline(), PROMPTS[:1], [5], steps=1, guidance=2.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_prompts_make_no_pictures():
    assert generate_pictures(pipeline(), [], []) == []


def test_many_pixels_are_decoded_a_part_at_a_time(monkeypatch):
    pipe, parts = pipeline(), []
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    at_once = [np.asarray(picture, dtype=np.int16) for picture in decode_latents(pipe, latents)]
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda some: parts.append(len(some)) or decode(some))
    monkeypatch.setattr(sampling, "PIXELS", 2 * 32 * 32)
    np.testing.assert_allclose([np.asarray(picture) for picture in decode_latents(pipe, latents)], at_once, atol=1)
    assert parts == [2, 1]


def test_more_steps_than_the_scheduler_knows_are_refused():
    with pytest.raises(Refusal, match="1001 denoising steps are more than the 1000 that the scheduler knows"):
        generate_pictures(pipeline(), PROMPTS[:1], [5], steps=1001)
