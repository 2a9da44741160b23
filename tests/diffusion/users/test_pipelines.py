import pytest
import torch
from PIL import Image
from tiny import alike, pipeline, pipeline_xl, trained

from diffpo.annotators.embedders.embedder import Embedded, Shown, UserEmbedder
from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative import NegativeGuidanceMixin
from diffpo.diffusion.users.branch import UserBranch
from diffpo.diffusion.users.pipelines import (
    StableDiffusionUserPipeline,
    StableDiffusionXLUserPipeline,
    UserEmbeddingMixin,
    interpolate_users,
)

TOKENS, WIDTH = 3, 8
ANN, BOB = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


class Both(UserEmbeddingMixin, NegativeGuidanceMixin, type(pipeline())):
    """Hears users, and is guided away from a negative."""


def hearing(kind=StableDiffusionUserPipeline, made=pipeline):
    """A pipeline whose branch is no longer silent."""
    pipe = kind.from_pipe(made())
    UserBranch(tokens=TOKENS, width=WIDTH, rank=4).attach(pipe.unet)
    trained(pipe.unet, by=0.5)
    return pipe


def drawn(pipe, prompts=("a red circle",), guidance: float = 3.0, **more) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    seeds = range(len(prompts) * more.get("num_images_per_prompt", 1))
    return pipe(
        list(prompts),
        num_inference_steps=2,
        guidance_scale=guidance,
        output_type="latent",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **more,
    ).images


def calls(pipe) -> list[tuple[int, torch.Tensor]]:
    """Rows and users of each call from now on."""
    told = []
    pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append((len(args[0]), kwargs["cross_attention_kwargs"]["user_embeds"])),
        with_kwargs=True,
        prepend=True,
    )
    return told


@pytest.mark.parametrize(
    ("kind", "made"), [(StableDiffusionUserPipeline, pipeline), (StableDiffusionXLUserPipeline, pipeline_xl)]
)
def test_nobody_is_the_stock_pipeline_and_users_differ(kind, made):
    pipe = hearing(kind, made)
    stock = drawn(made())
    assert alike(drawn(pipe), stock, atol=1e-4)
    assert alike(drawn(pipe, user_embeds=torch.zeros(TOKENS, WIDTH)), stock, atol=1e-4)
    ann, bob = drawn(pipe, user_embeds=ANN), drawn(pipe, user_embeds=BOB)
    assert min((ann - stock).abs().max(), (ann - bob).abs().max()) > 1e-3


def test_the_negative_half_hears_nobody():
    pipe = hearing()
    told = calls(pipe)
    drawn(pipe, user_embeds=ANN)
    for rows, user in told:
        assert rows == 2
        assert torch.equal(user, torch.stack([torch.zeros_like(ANN), ANN]))


def test_without_guidance_the_user_is_heard_by_all_rows():
    pipe = hearing()
    told = calls(pipe)
    drawn(pipe, guidance=1.0, user_embeds=ANN)
    assert [(rows, torch.equal(user[0], ANN)) for rows, user in told] == [(1, True)] * 2


def test_each_prompt_has_its_user_and_each_picture_that_of_its_prompt():
    pipe = hearing()
    told = calls(pipe)
    together = drawn(
        pipe, ["a red circle", "a blue cross"], user_embeds=torch.stack([ANN, BOB]), num_images_per_prompt=2
    )
    assert torch.equal(told[0][1][4:], torch.stack([ANN, ANN, BOB, BOB]))
    alone = drawn(pipe, ["a red circle"], user_embeds=ANN, num_images_per_prompt=2)
    torch.testing.assert_close(together[:2], alone, rtol=1e-3, atol=1e-3)


def test_user_guidance_at_0_leaves_the_user_out_and_at_1_adds_no_call():
    pipe = hearing()
    stock, told = drawn(pipe), calls(pipe)
    torch.testing.assert_close(drawn(pipe, user_embeds=ANN, user_guidance_scale=0.0), stock, rtol=1e-4, atol=1e-4)
    assert [rows for rows, _ in told] == [2, 1] * 2
    told.clear()
    drawn(pipe, user_embeds=ANN)
    assert [rows for rows, _ in told] == [2] * 2


def test_user_guidance_stretches_what_the_user_changes():
    """By hand at one step: e(no text) + g (e(c) + s (e(c, u) - e(c)) - e(no text))."""
    pipe = hearing()
    said: dict[str, torch.Tensor] = {}
    pipe.scheduler.set_timesteps(1)

    def at(scale: float) -> torch.Tensor:
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            "a red circle",
            num_inference_steps=1,
            guidance_scale=3.0,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
            user_embeds=ANN,
            user_guidance_scale=scale,
        ).images

    said = {scale: at(scale) for scale in (0.0, 1.0, 2.5)}
    torch.testing.assert_close(said[2.5], said[0.0] + 2.5 * (said[1.0] - said[0.0]), rtol=1e-3, atol=1e-3)


def test_ends_of_an_interpolation_are_the_users():
    assert torch.equal(interpolate_users([(1.0, ANN), (0.0, BOB)]), ANN)
    assert torch.equal(interpolate_users([(0.0, ANN), (1.0, BOB)]), BOB)
    torch.testing.assert_close(interpolate_users([(0.25, ANN), (0.75, BOB)]), 0.25 * ANN + 0.75 * BOB)


def test_users_and_a_negative_network_together():
    """With the base as the negative, which hears nobody anyway, it is the same as without."""
    alone, both = hearing(), hearing(Both)
    both.register_modules(negative_unet=pipeline().unet)
    torch.testing.assert_close(drawn(both, user_embeds=ANN), drawn(alone, user_embeds=ANN), rtol=1e-3, atol=1e-3)
    told = calls(both)
    drawn(both, user_embeds=ANN)
    assert [(rows, torch.equal(user[0], ANN)) for rows, user in told] == [(1, True)] * 2


class Brightness(UserEmbedder):
    """Mean brightness of liked pictures, everywhere."""

    per_file = 1
    model_id, commit, identity = "brightness", None, {}

    def __init__(self, shape: tuple[int, int]):
        self._shape = shape

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def check(self) -> None: ...

    def __call__(self, chunks):
        bright = [sum(shown.liked.getpixel((0, 0))[0] for shown in chunk) / len(chunk) for chunk in chunks]
        return Embedded(torch.tensor(bright)[:, None, None].expand(-1, *self.shape).float(), [""] * len(chunks))


def test_a_new_user_is_encoded_from_a_few_pairs():
    pair = Shown("a", Image.new("RGB", (8, 8), (10, 0, 0)), Image.new("RGB", (8, 8)))
    pipe = hearing()
    assert pipe.encode_user(Brightness((TOKENS, WIDTH)), [pair] * 4).unique().tolist() == [10.0]
    with pytest.raises(Refusal, match=r"makes \(2, 8\), the UNet takes \(3, 8\)"):
        pipe.encode_user(Brightness((2, WIDTH)), [pair] * 4)


def test_users_of_other_prompts_and_a_deaf_network_are_refused():
    pipe = hearing()
    with pytest.raises(Refusal, match="2 users were given for 1 pictures"):
        drawn(pipe, user_embeds=torch.stack([ANN, BOB]))
    with pytest.raises(Refusal, match="has no user attention; load it"):
        drawn(StableDiffusionUserPipeline.from_pipe(pipeline()), user_embeds=ANN)
