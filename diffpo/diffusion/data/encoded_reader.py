"""One visit of an encoded pair, and batches of visits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow
from diffpo.diffusion.data.batches import EncodedBatch, PosteriorBatch, Raw, States, join_sides, pad_states, sides
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.prompt_states import PromptStates
from diffpo.diffusion.data.readers import Example, Reader, gather_labels, gather_users, prompts_by_side


class EncodedView(NamedTuple):
    """The candidates of one row as posteriors; `time_ids` as of `Framed`."""

    mean: Shaped[np.ndarray, "k c h w"]
    std: Shaped[np.ndarray, "k c h w"]
    time_ids: Float[np.ndarray, "k 6"]


@dataclass(frozen=True, eq=False)
class PosteriorReader(Reader):
    """Reads pictures that were encoded; the flip is drawn as from pixels and picks the variant.

    Attributes:
        scaling: what latents are multiplied by.
    """

    scaling: float

    @classmethod
    def of(
        cls, sources: Sequence[EncodedPairs], framing: Framing, caption_dropout: float, seed: int
    ) -> "PosteriorReader":
        """A reader of these sources.

        Raises:
            Refusal: if one of them was encoded for another framing.
        """
        return cls(framing, caption_dropout, seed, find_scaling(sources, framing))

    def look(self, row: PairRow, draws: Draws) -> EncodedView:
        mirrored = self.framing.mirrors(draws)
        pictures = [candidate.read(mirrored) for candidate in row.candidates]
        mean, std, time_ids = map(np.stack, zip(*pictures, strict=True))
        return EncodedView(mean, std, time_ids)

    def is_one(self, view: EncodedView) -> bool:
        return len(view.mean) > 1 and bool((view.mean == view.mean[:1]).all())

    def collate(self, examples: list[Example]) -> Raw:
        return self.gather(examples)

    def gather(self, examples: list[Example]) -> PosteriorBatch:
        """A batch whose prompts are texts."""
        views: list[EncodedView] = [example.view for example in examples]
        require_one_shape(views)
        mean, std, time_ids = (torch.from_numpy(np.stack(part, axis=1)) for part in zip(*views, strict=True))
        return PosteriorBatch(
            mean,
            std,
            self.scaling,
            time_ids,
            prompts_by_side(examples),
            gather_labels(examples),
            epoch=tuple(example.epoch for example in examples),
            row=tuple(example.row.id for example in examples),
            broken=tuple(row for example in examples for row in example.broken),
            identical=tuple(row for example in examples for row in example.identical),
            user=gather_users(examples),
        )


def require_one_shape(views: Sequence[EncodedView]) -> None:
    """Raise a Refusal if latents of a batch would not lie on one grid of tokens."""
    shapes = sorted({view.mean.shape[1:] for view in views})
    if len(shapes) > 1:
        told = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise Refusal(
            f"A batch holds latents of {told}, and a network takes one shape at a time; set fit.per_device_batch_size "
            "to 1, or encode the pairs in one shape (data.framing.bucket_step null)."
        )


def find_scaling(sources: Sequence[EncodedPairs], framing: Framing) -> float:
    """What latents of sources are multiplied by.

    Raises:
        Refusal: if one of them was encoded for another framing.
    """
    for source in sources:
        source.require_framing(framing)
    return sources[0].encoding["scaling"]


@dataclass(frozen=True, eq=False)
class EncodedReader(PosteriorReader):
    """Reads pictures and prompts that were encoded.

    Attributes:
        tables: of the prompts of each source.
        told: a sentence about the prompts, see `report`.
    """

    tables: tuple[PromptStates, ...]
    told: str

    @classmethod
    def of(
        cls, sources: Sequence[EncodedPairs], framing: Framing, caption_dropout: float, seed: int
    ) -> "EncodedReader":
        scaling, tables = find_scaling(sources, framing), tuple(source.prompts() for source in sources)
        about = [source.encoding for source in sources]
        truncated, encoded = (sum(found[name] for found in about) for name in ("truncated", "prompts"))
        told = (
            f" {truncated} of {encoded} prompts were longer than {about[0]['longest']} tokens and cut when they were "
            "encoded."
        )
        return cls(framing, caption_dropout, seed, scaling, tables, told)

    def collate(self, examples: list[Example]) -> EncodedBatch:
        batch = self.gather(examples)
        told = [self.states(side) for side in sides(batch.prompts)]
        return batch.told(join_sides(told, batch.time_ids, batch.user))

    def states(self, prompts: list[str]) -> States:
        """What was encoded of prompts.

        Raises:
            Refusal: if one of them was not.
        """
        found = [self.state(prompt) for prompt in prompts]
        return {name: torch.cat(some) for name, some in pad_states(found).items()}

    def state(self, prompt: str) -> States:
        for table in self.tables:
            if (found := table.find(prompt)) is not None:
                return found
        raise Refusal(
            f"The prompt {prompt!r} was not encoded; data.rows of this run must not make other prompts than those of "
            "the encoding: run scripts/encode_pairs.py with the data.rows of this run."
        )

    def report(self) -> str:
        return self.told
