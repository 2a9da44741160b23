"""Pipelines that draw for a user (PPD, arXiv:2501.06655)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from jaxtyping import Float
from torch import Tensor

from diffpo.annotators.embedders.embedder import Shown, UserEmbedder, embed_pairs
from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.routing import answer_calls, arguments_of, take_half
from diffpo.diffusion.users.attention import USER, load_user_attention, user_input

ADDED = "cross_attention_kwargs"


class UserEmbeddingMixin:
    """Stands before a pipeline of diffusers whose UNet hears users: `class X(UserEmbeddingMixin, SomePipeline): pass`.

    Nobody is heard in the negative half of classifier-free guidance, so the guidance scale g stretches what text and
    user change together; `user_guidance_scale` s is of the user alone:

        eps = e(no text) + g (e(c) + s (e(c, u) - e(c)) - e(no text)).

    Whatever s is but 1 costs another pass of the conditional half. Without a user it is the stock pipeline. With
    `NegativeGuidanceMixin` it stands in front: `class X(UserEmbeddingMixin, NegativeGuidanceMixin, Pipeline): pass`.
    """

    def load_user_attention(self: Any, path: str, revision: str | None = None) -> None:
        """See `diffpo.diffusion.load_user_attention`."""
        load_user_attention(self.unet, path, revision)

    def encode_user(self: Any, embedder: UserEmbedder, pairs: Sequence[Shown]) -> Float[Tensor, "tokens width"]:
        """Tokens of a new user.

        Args:
            embedder: the one that the pipeline was trained with.
            pairs: captions with a liked and a disliked picture each; training used four.

        Raises:
            Refusal: if there are no pairs, or the embedder makes other tokens than the UNet takes.
        """
        tokens, branch = embed_pairs(embedder, pairs), user_input(self.unet)
        if tokens.shape != (branch.tokens, branch.in_features):
            raise Refusal(
                f"The embedder makes {tuple(tokens.shape)}, the UNet takes {(branch.tokens, branch.in_features)}: "
                "take the embedder that it was trained with."
            )
        return tokens

    @torch.no_grad()
    def __call__(
        self: Any,
        *args: Any,
        user_embeds: Float[Tensor, "*prompts u e"] | None = None,
        user_guidance_scale: float = 1.0,
        **kwargs: Any,
    ) -> Any:
        """As the stock pipeline, for a user.

        Args:
            user_embeds: tokens of one user, or of one for each prompt; zeros are nobody.
            user_guidance_scale: 1 is what was trained, 0 leaves the user out, more exaggerates.

        Raises:
            Refusal: if the UNet hears no users, or others, or there are not as many as prompts.
        """
        stock: Any = super().__call__  # type: ignore[reportAttributeAccessIssue]
        if user_embeds is None:
            return stock(*args, **kwargs)
        user_input(self.unet)
        asked = arguments_of(self, args, kwargs)
        prompts = asked["prompt_embeds"] if asked["prompt"] is None else asked["prompt"]
        pictures = (1 if isinstance(prompts, str) else len(prompts)) * asked["num_images_per_prompt"]
        told = user_embeds[None] if user_embeds.ndim == 2 else user_embeds
        if pictures % len(told):
            raise Refusal(f"{len(told)} users were given for {pictures} pictures; give one, or one per prompt.")
        heard = UserCalls(told.repeat_interleave(pictures // len(told), 0), user_guidance_scale)
        with answer_calls(self.unet, heard):
            return stock(*args, **kwargs)


class UserCalls:
    """Tells each call of a UNet whom it draws for.

    A call with more rows than pictures has the unconditional half in front; one with as many has none, because
    guidance is off, or because another network answers that half.

    Args:
        user: of each picture.
        scale: of what the user changes.
    """

    def __init__(self, user: Float[Tensor, "pictures u e"], scale: float):
        self.user, self.scale = user, scale

    def __call__(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sample = args[0] if args else kwargs["sample"]
        told = self.user.to(sample.device)
        nobody = torch.zeros_like(told)
        heard = told if len(sample) == len(told) else torch.cat([nobody, told])
        said = own(*args, **explain_users(kwargs, heard))
        if self.scale == 1:
            return said
        conditional, alone = take_half((args, kwargs), len(sample), slice(-len(told), None))
        return stretch_user(said, own(*conditional, **explain_users(alone, nobody)), len(told), self.scale)


def explain_users(kwargs: dict[str, Any], user: Float[Tensor, "rows u e"]) -> dict[str, Any]:
    """Arguments of a call that also tell of users."""
    return kwargs | {ADDED: {**(kwargs.get(ADDED) or {}), USER: user}}


def stretch_user(said: Any, plain: Any, pictures: int, scale: float) -> Any:
    """An answer, whose last rows differ `scale` times as much from a plain one; as a tuple or an output object."""
    if isinstance(said, dict):
        return type(said)(sample=stretch_user(tuple(said.values()), tuple(plain.values()), pictures, scale)[0])
    first, last = said[0][:-pictures], said[0][-pictures:]
    return (torch.cat([first, plain[0] + scale * (last - plain[0])]),)


def interpolate_users(users: Sequence[tuple[float, Float[Tensor, "u e"]]]) -> Float[Tensor, "u e"]:
    """The weighted sum of users' tokens; weights of one user, and of an interpolation, add up to 1."""
    return torch.stack([weight * tokens for weight, tokens in users]).sum(0)


class StableDiffusionUserPipeline(UserEmbeddingMixin, StableDiffusionPipeline):
    """Stable Diffusion 1.x and 2.x."""


class StableDiffusionXLUserPipeline(UserEmbeddingMixin, StableDiffusionXLPipeline):
    """Stable Diffusion XL."""
