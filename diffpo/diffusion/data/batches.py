"""What an image network is given: batches of pixels, of posteriors or of prompts, and what conditions them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.core.refusal import Refusal

States = Mapping[str, Tensor]  # what text encoders make of prompts, by name: prompt, and perhaps pooled or mask


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the network sees besides (x_t, t), for both sides of each pair.

    Attributes:
        states: of the prompts, by name; the sides differ only if the data have one caption per image. `prompt` is
            (k, b, l, d), `pooled` one state per prompt, `mask` (k, b, l) tells the tokens of prompts that are padded.
        picture: of the pictures, by name: `time_ids` are original size, crop corner and target size (SDXL).
        user: tokens of whom the picture is for, zeros for nobody; None of a network that hears no users. Its rows are
            (k, b), or as `map` has folded them.
    """

    states: States
    picture: Mapping[str, Tensor] = field(default_factory=dict)
    user: Float[Tensor, "*rows u e"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The same conditioning with each tensor changed."""
        states = {name: change(value) for name, value in self.states.items()}
        picture = {name: change(value) for name, value in self.picture.items()}
        return Conditioning(states, picture, None if self.user is None else change(self.user))

    def exchanged(self) -> "Conditioning":
        """Each side told the text of the other; what it is told of its picture stays, and so does the user."""
        return replace(self, states={name: value.flip(0) for name, value in self.states.items()})

    def saying(self, other: "Conditioning") -> "Conditioning":
        """The same pictures and users with the text of another conditioning of one prompt, k = b = 1."""
        k, b = self.states["prompt"].shape[:2]
        states = {name: value.expand(k, b, *value.shape[2:]) for name, value in other.states.items()}
        return replace(self, states=states)

    def told_in(self, dtype: torch.dtype) -> "Conditioning":
        """The same with text states in the type that the text encoders of a run would give them in."""
        states = {name: x.to(dtype) if x.is_floating_point() else x for name, x in self.states.items()}
        return replace(self, states=states)


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """One encoded batch.

    Attributes:
        latents: scaled as the network expects them: (c, h, w) of a picture, (frames, c, h, w) of a video; zeros if
            there are prompts alone.
        row: ids of the rows.
        empty: the empty prompt, k = b = 1, for objectives that need it.
    """

    latents: Float[Tensor, "k b *picture"]
    cond: Conditioning
    label: PairLabels
    row: tuple[int, ...]
    empty: Conditioning | None = None

    @property
    def unconditional(self) -> Conditioning:
        """What the network sees in the unconditional half of classifier-free guidance.

        Raises:
            Refusal: if the batch came without the empty prompt.
        """
        if self.empty is None:
            raise Refusal("The batch lacks the empty prompt; load the base with unconditional=True.")
        return self.cond.saying(self.empty)

    def best(self) -> "ImageBatch":
        """The chosen side alone, k = 1."""
        return replace(self, latents=self.latents[:1], cond=self.cond.map(lambda x: x[:1]))

    def repeated(self, n: int) -> "ImageBatch":
        """All pairs n times, the whole batch again and again."""
        if n == 1:
            return self
        again: Callable[[Tensor], Tensor] = lambda x: torch.cat([x] * n, dim=1)  # noqa: E731
        label = self.label.map(lambda x: torch.cat([x] * n, dim=-1))
        return ImageBatch(again(self.latents), self.cond.map(again), label, self.row * n, self.empty)


def sides(prompts: Sequence[list[str]]) -> list[list[str]]:
    """Prompts to encode: of one side if all sides share them."""
    return [prompts[0]] if all(side == prompts[0] for side in prompts) else list(prompts)


def join_sides(
    told: Sequence[States], time_ids: Float[Tensor, "k b 6"], user: Float[Tensor, "b u e"] | None = None
) -> Conditioning:
    """Conditioning of k sides from the states of each, or of the one that they share."""
    k = len(time_ids)
    states = {name: torch.stack(some).expand(k, *[-1] * some[0].ndim) for name, some in pad_states(told).items()}
    return Conditioning(states, {"time_ids": time_ids}, None if user is None else user.expand(k, -1, -1, -1))


def pad_states(told: Sequence[States]) -> dict[str, list[Tensor]]:
    """States of several batches of prompts by name; those of shorter prompts are filled up with zeros."""
    found = {}
    for name in told[0]:
        longest = max(states[name].shape[1] for states in told)
        short = [(states[name], longest - states[name].shape[1]) for states in told]
        found[name] = [torch.cat([x, x.new_zeros(len(x), more, *x.shape[2:])], 1) if more else x for x, more in short]
    return found


class Movable(ABC):
    """A batch whose tensors go to a device together."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Any:
        """The same batch with each tensor changed."""

    def pin_memory(self) -> Any:
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Any:
        return self.map(lambda x: x.to(device, non_blocking=True))


class FramedBatch(Movable):
    """A batch that knows how each of its pictures was framed."""

    time_ids: Float[Tensor, "k b 6"]

    @property
    def pictures(self) -> int:
        return self.time_ids[..., 0].numel()

    @property
    def enlarged(self) -> int:
        return count_enlarged(self.time_ids)


def count_enlarged(time_ids: Float[Tensor, "k b 6"]) -> int:
    """How many pictures are smaller than what they were cropped to, in height or in width."""
    return int((time_ids[..., :2] < time_ids[..., 4:]).any(-1).sum())


@dataclass(frozen=True, eq=False)
class PixelBatch(FramedBatch):
    """Collated pairs (or rows of k candidates) before they are encoded.

    Attributes:
        pixels: 0 to 255.
        time_ids: what SDXL is told of each picture, see `Framed`.
        prompts: one list per candidate.
        epoch, row: keys of the batch's random draws.
        broken: epochs and ids of pairs passed over because a picture could not be read.
        identical: the same of pairs whose sides are the same picture.
        user: tokens of whom each pair was judged by; None if the network hears no users.
    """

    pixels: UInt8[Tensor, "k b 3 h w"]
    time_ids: Float[Tensor, "k b 6"]
    prompts: tuple[list[str], ...]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    identical: tuple[tuple[int, int], ...] = ()
    user: Float[Tensor, "b u e"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "PixelBatch":
        user = None if self.user is None else change(self.user)
        pixels, time_ids = change(self.pixels), change(self.time_ids)
        return replace(self, pixels=pixels, time_ids=time_ids, label=self.label.map(change), user=user)


@dataclass(frozen=True, eq=False)
class PosteriorBatch(FramedBatch):
    """Pairs whose pictures are encoded and whose prompts are not yet.

    Attributes:
        mean, std, scaling: as of `EncodedBatch`.
        time_ids: what SDXL is told of each picture, see `Framed`.
        prompts: one list per candidate.
        epoch, row, broken, identical, user: as of `PixelBatch`.
    """

    mean: Float[Tensor, "k b c h w"]
    std: Float[Tensor, "k b c h w"]
    scaling: float
    time_ids: Float[Tensor, "k b 6"]
    prompts: tuple[list[str], ...]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    identical: tuple[tuple[int, int], ...] = ()
    user: Float[Tensor, "b u e"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "PosteriorBatch":
        user = None if self.user is None else change(self.user)
        mean, std, time_ids = change(self.mean), change(self.std), change(self.time_ids)
        return replace(self, mean=mean, std=std, time_ids=time_ids, label=self.label.map(change), user=user)

    def told(self, cond: Conditioning) -> "EncodedBatch":
        """The same with what was made of the prompts."""
        keys, passed_over = (self.epoch, self.row), (self.broken, self.identical)
        return EncodedBatch(
            self.mean, self.std, self.scaling, cond, self.label, *keys, *passed_over, enlarged=self.enlarged
        )


@dataclass(frozen=True, eq=False)
class EncodedBatch(Movable):
    """Pairs as posteriors of the VAE and text states: all that training needs of pictures and prompts.

    Attributes:
        mean, std: of the posterior, in any type; sampling computes in fp32.
        scaling: what latents are multiplied by, see `Family.scaling`.
        epoch, row: keys of the batch's random draws.
        broken: epochs and ids of pairs passed over because a picture could not be read.
        identical: the same of pairs whose sides are the same picture.
        enlarged: how many pictures had to be enlarged, as far as is known.
    """

    mean: Float[Tensor, "k b c h w"]
    std: Float[Tensor, "k b c h w"]
    scaling: float
    cond: Conditioning
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    identical: tuple[tuple[int, int], ...] = ()
    enlarged: int = 0

    @property
    def pictures(self) -> int:
        return self.mean.shape[0] * self.mean.shape[1]

    def map(self, change: Callable[[Tensor], Tensor]) -> "EncodedBatch":
        return replace(
            self,
            mean=change(self.mean),
            std=change(self.std),
            cond=self.cond.map(change),
            label=self.label.map(change),
        )

    def told_in(self, dtype: torch.dtype) -> "EncodedBatch":
        """The same with text states in the type that the text encoders of a run would give them in."""
        return replace(self, cond=self.cond.told_in(dtype))

    def sampled(self, draws: Draws) -> ImageBatch:
        """Latents drawn from the posterior, with noise that the sides of a pair share."""
        noise = draws.normal("vae", *self.mean.shape[2:])
        latents = (self.mean.float() + self.std.float() * noise) * self.scaling
        return ImageBatch(latents, self.cond, self.label, self.row)


@dataclass(frozen=True, eq=False)
class PromptBatch(Movable):
    """Collated prompts before they are encoded.

    Attributes:
        side: of the square pictures that are to come of them, in pixels.
        time_ids: what SDXL is told of these.
        prompts: one list, of the one candidate.
        epoch, row: keys of the batch's random draws.
    """

    side: int
    time_ids: Float[Tensor, "1 b 6"]
    prompts: tuple[list[str], ...]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    identical: tuple[tuple[int, int], ...] = ()
    user: None = None
    pictures: int = 0
    enlarged: int = 0

    def map(self, change: Callable[[Tensor], Tensor]) -> "PromptBatch":
        return replace(self, time_ids=change(self.time_ids), label=self.label.map(change))


Raw = PixelBatch | PosteriorBatch | EncodedBatch | PromptBatch  # what readers collate and a base encodes
