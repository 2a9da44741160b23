import numpy as np
import torch
from tiny import pipeline

from diffpo.diffusion.sampling import generate

PROMPTS = ["a red circle", "a blue cross", "a green square"]


def pictures(prompts, seeds, batch_size: int = 16) -> np.ndarray:
    made = generate(pipeline(), prompts, seeds, steps=2, guidance=2.0, batch_size=batch_size)
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
    generate(pipeline(), PROMPTS[:1], [5], steps=1, guidance=2.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_prompts_make_no_pictures():
    assert generate(pipeline(), [], []) == []
