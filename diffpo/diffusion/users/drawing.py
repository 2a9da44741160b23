"""Drawing for users, and comparing models that do: each user judges the pictures that were drawn for them (PPD)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from jaxtyping import Float
from torch import Tensor

from diffpo.annotators.embedders.embedder import Shown, UserEmbedder
from diffpo.core.refusal import Refusal
from diffpo.data.source import Source
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.diffusion.annotate.score import read_candidate
from diffpo.diffusion.evaluation.drawing import Sampling, draw_pictures
from diffpo.diffusion.evaluation.model import ComparedModel, list_weight_files, stamp_files
from diffpo.diffusion.model.pipeline import family_of
from diffpo.diffusion.users.chunks import Cut
from diffpo.diffusion.users.pipelines import StableDiffusionUserPipeline, StableDiffusionXLUserPipeline
from diffpo.evaluation.win_rates import WinRate
from diffpo.storage.files import require_name

USER = "{user}"
# What an evaluation of users writes beside the folders of its models.
TAKEN = ("config.yaml", "files.json", "report.json", "utilities.json", "between", "between.png", "users.png")


class OneUser:
    """Stands before a pipeline that hears users: it draws for one of them wherever a call names nobody."""

    def for_user(self, tokens: Float[Tensor, "u e"], scale: float = 1.0) -> "OneUser":
        self.told = {"user_embeds": tokens, "user_guidance_scale": scale}
        return self

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **self.told | kwargs)  # type: ignore[reportAttributeAccessIssue]


class StableDiffusionOneUserPipeline(OneUser, StableDiffusionUserPipeline):
    """Stable Diffusion 1.x and 2.x."""


class StableDiffusionXLOneUserPipeline(OneUser, StableDiffusionXLUserPipeline):
    """Stable Diffusion XL."""


HEARING = {
    StableDiffusionPipeline: StableDiffusionOneUserPipeline,
    StableDiffusionXLPipeline: StableDiffusionXLOneUserPipeline,
}


@dataclass(frozen=True)
class UserModel:
    """One model of a comparison by users.

    Args:
        name: in tables and folders.
        base: hub id, folder or single file of a pipeline.
        unet: a UNet that replaces the base's: hub id, folder or file. `{user}` in it is the id of the user: then there
            is one model per user.
        lora: adapters on top, likewise.
        user_attention: by which users are heard: hub id, folder (what `train_diffusion_dpo.py` wrote) or file. Null
            hears nobody, so pictures are drawn once for all users (or by each user's own model).
        user_guidance: how much of a user is heard (`user_guidance_scale` of the pipelines that hear users).
        shots: support pairs that a user is heard by; each number is a row of the tables.
        shuffled: whether users are heard as somebody else (`shuffle_users`): what remains of a gain then is not
            personal.

    Raises:
        Refusal: if `shots` has no number, or one below 1, or the name cannot be that of a folder.
    """

    name: str
    base: str
    unet: str | None = None
    lora: str | None = None
    user_attention: str | None = None
    user_guidance: float = 1.0
    shots: list[int] = field(default_factory=lambda: [4])
    shuffled: bool = False

    def __post_init__(self):
        if not self.shots or min(self.shots) < 1:
            raise Refusal(f"Model {self.name!r} needs numbers of support pairs from 1 on, got shots {self.shots}.")
        for row in self.rows:
            require_name(row, "a model", TAKEN)

    @property
    def is_own(self) -> bool:
        """Whether each user has one."""
        return USER in f"{self.unet}{self.lora}"

    @property
    def rows(self) -> list[str]:
        """Names of its rows in the tables."""
        return [self.name] if self.user_attention is None else [f"{self.name}-{shots}" for shots in self.shots]

    def of(self, user: str) -> ComparedModel:
        """The model without what hears users."""
        unet, lora = (part and part.replace(USER, user) for part in (self.unet, self.lora))
        return ComparedModel(self.name, self.base, unet, lora)

    def hearing(self) -> Any:
        """A pipeline in fp32 that still has to be told for whom it draws (`OneUser.for_user`)."""
        assert self.user_attention is not None
        plain = self.of(USER).load()
        pipeline: Any = HEARING[type(plain)].from_pipe(plain, **family_of(plain).options)
        pipeline.load_user_attention(self.user_attention)
        return pipeline

    @property
    def branch(self) -> dict[str, Any]:
        """The state of what hears users, part of what pictures depend on."""
        path = self.user_attention
        local = list(list_weight_files(Path(path))) if path and Path(path).exists() else []
        about = {"user_attention": path, "user_attention_files": stamp_files(local)}
        return about | {"user_guidance": self.user_guidance}


@dataclass(frozen=True, eq=False)
class Support:
    """Some pairs of each user, of which the user's embedding is made; nothing is trained.

    Attributes:
        shown: the pairs of each user; embeddings of fewer are made of the first.
        identity: what embeddings depend on.
    """

    embedder: UserEmbedder
    shown: Mapping[str, list[Shown]]
    identity: Mapping[str, Any]

    @staticmethod
    def of(embedder: UserEmbedder, source: Source, pairs: int, seed: int = 0) -> "Support":
        """Of all users of a source who have enough pairs with a winner.

        Raises:
            Refusal: if there is no such user, or the source or the embedder cannot be used.
        """
        embedder.check()
        rows = PairsInOrder(source, seed=seed)
        chunks = Cut(shots=pairs, most_chunks=1, seed=seed)(rows)
        shown = {
            chunk.user: [
                Shown(str(row.prompts[0]), *map(read_candidate, row.candidates))
                for row in map(rows.__getitem__, chunk.pairs)
            ]
            for chunk in chunks.all
        }
        about = {"source": str(source), "digest": chunks.digest, "pairs": pairs, "seed": seed, **chunks.counts}
        return Support(embedder, shown, {**embedder.identity, **about})

    def only(self, users: Sequence[str]) -> "Support":
        """Of some of the users."""
        return replace(self, shown={user: self.shown[user] for user in users})

    def tokens(self, user: str, shots: int) -> Float[Tensor, "u e"]:
        return self.embedder([self.shown[user][:shots]]).tokens[0]


def shuffle_users(users: Sequence[str], seed: int = 0) -> dict[str, str]:
    """Somebody else for each user, at random."""
    order = [users[int(i)] for i in np.random.default_rng(seed).permutation(len(users))]
    return dict(zip(order, [*order[1:], order[0]], strict=True))


Files = dict[str, list[Path]]


def drawn_for_users(
    model: UserModel, support: Support, prompts: Sequence[str], sampling: Sampling, folder: Path
) -> dict[str, Files]:
    """The pictures that each user gets, by name of the row in the tables: the model's, with its number of shots.

    All users get pictures of the same seeds. What is finished is not drawn again.

    Args:
        folder: gets folders of pictures.

    Raises:
        Refusal: if a part of the model cannot be found or does not fit, or a folder holds other pictures.
        Refusal: if the disk is full.
    """
    users = list(support.shown)
    if model.user_attention is None:
        owners = users if model.is_own else [model.name]
        files = {
            owner: draw_pictures(
                model.of(owner).load,
                prompts,
                sampling,
                folder / model.name / owner,
                model.of(owner).identity,
                f"{model.name}, {owner}",
            )
            for owner in owners
        }
        return {model.name: {user: files[user if model.is_own else model.name] for user in users}}
    heard_as, load = (
        shuffle_users(users) if model.shuffled else dict(zip(users, users, strict=True)),
        cache(model.hearing),
    )
    rows: dict[str, Files] = {}
    for row, shots in zip(model.rows, model.shots, strict=True):
        rows[row] = {
            user: drawn_for(
                model,
                load,
                support.tokens(heard_as[user], shots),
                prompts,
                sampling,
                folder / row / user,
                {"heard_as": heard_as[user], "shots": shots, "support": dict(support.identity)},
            )
            for user in users
        }
    return rows


def drawn_for(
    model: UserModel,
    load: Callable[[], Any],
    tokens: Float[Tensor, "u e"],
    prompts: Sequence[str],
    sampling: Sampling,
    folder: Path,
    about: Mapping[str, Any],
) -> list[Path]:
    """Pictures for one user of a model that hears users.

    Args:
        load: gives its pipeline.
        about: what the tokens are, part of what the pictures depend on.
    """
    identity = {**model.of(USER).identity, **model.branch, **about}
    return draw_pictures(
        lambda: load().for_user(tokens, model.user_guidance), prompts, sampling, folder, identity, folder.name
    )


def win_rate_by_users(
    ours: Float[np.ndarray, "users prompts pictures"],
    theirs: Float[np.ndarray, "users prompts pictures"],
    resamples: int = 10_000,
    level: float = 0.95,
) -> WinRate:
    """How often users prefer the first of two pictures of the same prompt and seed; a tie counts half.

    The percentile bootstrap interval is over users and prompts: each resample draws both anew, independently, so it
    tells of other users as well as of other prompts.
    """
    wins = np.where(ours == theirs, 0.5, ours > theirs).mean(axis=2)
    rng, (users, prompts) = np.random.default_rng(0), wins.shape
    by_user = rng.multinomial(users, np.full(users, 1 / users), size=resamples) / users
    by_prompt = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples) / prompts
    rates = ((by_user @ wins) * by_prompt).sum(axis=1)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return WinRate(float(wins.mean()), float(low), float(high))
