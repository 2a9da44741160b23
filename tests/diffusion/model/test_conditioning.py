import pytest
import torch
from tiny import pipeline, pipeline_xl

from diffpo.core.pair import PairLabels
from diffpo.diffusion.data.batches import PixelBatch
from diffpo.diffusion.families.sd import SD
from diffpo.diffusion.families.sdxl import SDXL
from diffpo.diffusion.model.conditioning import Conditioner

LONG = "a red circle " * 20
PROMPTS = ["a red circle", "a blue cross"]


def batch(*sides: list[str]) -> PixelBatch:
    k, b = len(sides), len(sides[0])
    pixels, time_ids = torch.zeros(k, b, 3, 8, 8, dtype=torch.uint8), torch.arange(k * b * 6.0).reshape(k, b, 6)
    return PixelBatch(pixels, time_ids, sides, PairLabels.hard(b), (0,) * b, tuple(range(b)))


def one() -> Conditioner:
    return Conditioner(SD(), pipeline())


def two(force_zeros: bool = True) -> Conditioner:
    return Conditioner(SDXL(), pipeline_xl(force_zeros=force_zeros))


@pytest.mark.parametrize("made", [one, two])
def test_prompts_mean_what_they_mean_to_the_pipeline(made):
    conditioner = made()
    ours = conditioner(batch(PROMPTS, PROMPTS))
    parts = conditioner.parts
    states, _, *rest = parts.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    torch.testing.assert_close(ours.states["prompt"][0], states)
    if rest:
        torch.testing.assert_close(ours.states["pooled"][1], rest[0])


@pytest.mark.parametrize("made", [one, two])
def test_equal_captions_are_encoded_once(made):
    conditioner = made()
    states = conditioner(batch(PROMPTS, PROMPTS)).states["prompt"]
    assert states.stride(0) == 0
    assert conditioner.encoded == 2


@pytest.mark.parametrize("made", [one, two])
def test_captions_of_their_own_stay_with_their_side(made):
    conditioner = made()
    chosen, rejected = conditioner(batch(PROMPTS[:1], PROMPTS[1:])).states["prompt"]
    alone = [conditioner(batch([prompt])).states["prompt"][0] for prompt in PROMPTS]
    torch.testing.assert_close([chosen, rejected], alone)


def test_an_emptied_caption_is_the_unconditional_branch_of_the_pipeline():
    """Zeros for SDXL base, the states of an empty text where the pipeline does not force zeros."""
    for force_zeros in (True, False):
        conditioner = two(force_zeros)
        _, negative, _, negative_pooled = conditioner.parts.encode_prompt(["a red circle"], device="cpu")
        cond = conditioner(batch(["", "a red circle"]))
        torch.testing.assert_close(cond.states["prompt"][0, :1], negative)
        torch.testing.assert_close(cond.states["pooled"][0, :1], negative_pooled)
        assert (cond.states["prompt"][0, 0].abs().max() == 0) == force_zeros
        assert cond.states["prompt"][0, 1].abs().max() > 0


@pytest.mark.parametrize("made", [one, two])
def test_cut_prompts_are_counted(made):
    conditioner = made()
    conditioner(batch(["a red circle", LONG]))
    conditioner(batch(["a red circle"], [LONG]))
    assert conditioner.report() == "2 of 4 prompts read were longer than 24 tokens and cut."


@pytest.mark.parametrize("made", [one, two])
def test_the_empty_prompt_is_that_of_the_pipelines_unconditional_half_and_is_not_counted(made):
    conditioner = made()
    ours, parts = conditioner.empty(), conditioner.parts
    _, states, *rest = parts.encode_prompt(
        PROMPTS[0], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    torch.testing.assert_close(ours.states["prompt"][0], states)
    if rest:
        torch.testing.assert_close(ours.states["pooled"][0], rest[1])
    assert conditioner.encoded == 0


def test_encoders_that_are_offloaded_are_on_the_device_while_they_encode_alone():
    conditioner = Conditioner(SD(), pipeline(), offloads=True)
    wanted, moves = one()(batch(PROMPTS)), []
    encoder = conditioner.parts.text_encoder
    forward = encoder.forward
    encoder.to = lambda device: moves.append(str(device))
    encoder.forward = lambda *args, **kwargs: moves.append("forward") or forward(*args, **kwargs)
    assert torch.equal(conditioner(batch(PROMPTS)).states["prompt"], wanted.states["prompt"])
    assert moves == ["cpu", "forward", "cpu"]
