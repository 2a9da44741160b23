"""The table of encoded pairs, and how it is computed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Features
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from diffpo.data.files.pictures import BrokenImage
from diffpo.data.pairs import PairTable
from diffpo.data.rows import PairRow
from diffpo.data.typed import list_captions
from diffpo.diffusion.data.encoded import EXTRA, PAIRS, VARIANTS, columns, latents_of, of_sides
from diffpo.diffusion.data.framing import Framed, Framing
from diffpo.diffusion.data.readers import decode_row
from diffpo.diffusion.model.encoder import Encoder, at_a_time
from diffpo.processes.workers import from_workers
from diffpo.storage import arrow
from diffpo.storage.arrow import Shards


class Looked(NamedTuple):
    """The pictures of one pair, as they are and perhaps mirrored; no variant if one cannot be read."""

    shape: int
    variants: tuple[Framed, ...]


@dataclass(frozen=True, eq=False)
class FramedPairs(Dataset[Looked]):
    """Pairs, decoded and framed."""

    pairs: PairTable
    framing: Framing

    def __getitem__(self, n: int) -> Looked:
        try:
            pictures = decode_row(self.pairs[n])
        except BrokenImage:
            return Looked(-1, ())
        mirrored = (False, True) if self.framing.flip else (False,)
        return Looked(
            self.framing.shape_of(pictures), tuple(self.framing.framed(pictures, flipped) for flipped in mirrored)
        )


class Waiting(NamedTuple):
    """A picture that is not encoded yet, and which field of which record it will fill."""

    shape: int
    record: dict[str, Any]
    column: str
    pixels: Tensor


@dataclass(frozen=True, eq=False)
class EncodedShards(Shards):
    """Pairs and the posteriors of their pictures.

    Attributes:
        pairs: as their source gives them.
        dtype: of stored posteriors.
        batch_size: pictures that the VAE encodes at a time, unless they are large.
    """

    pairs: PairTable
    framing: Framing
    encoder: Encoder
    dtype: torch.dtype
    batch_size: int
    workers: int
    device: torch.device
    what = PAIRS

    @property
    def rows(self) -> int:
        return len(self.pairs)

    @property
    def k(self) -> int:
        return len(self.pairs[0].candidates)

    @property
    def variants(self) -> tuple[str, ...]:
        return VARIANTS if self.framing.flip else VARIANTS[:1]

    @cached_property
    def latent_shapes(self) -> list[list[int]]:
        """Of each shape that pairs are cropped to."""
        side = self.framing.resolution
        mean, _ = self.encoder.posterior(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.device))
        channels, factor = mean.shape[1], side // mean.shape[2]
        return [[channels, height // factor, width // factor] for height, width in self.framing.shapes]

    @cached_property
    def bytes_of_row(self) -> int:
        largest = max(c * h * w for c, h, w in self.latent_shapes)
        return 2 * self.k * len(self.variants) * largest * self.dtype.itemsize

    @property
    def features(self) -> Features:
        return columns(self.k, self.variants, self.pairs.light.features, self.pairs.several)

    def write(self, names: Sequence[str], folder: Path, silent: bool) -> Iterator[str]:
        mine = [n for name in names for n in self.files[name]]
        loader = from_workers(
            FramedPairs(self.pairs, self.framing),
            self.workers,
            lambda: self.k * len(self.variants) * 3 * max(height * width for height, width in self.framing.shapes),
            batch_size=1,
            sampler=mine,
            collate_fn=itemgetter(0),
        )
        bar = tqdm(loader, total=len(mine), desc="encoding", unit="pair", disable=silent, mininterval=1)
        pictures, features = iter(bar), self.features
        for name in names:
            rows = self.files[name]
            arrow.write_batch(folder / name, features, self.records(rows, islice(pictures, len(rows))))
            yield name

    def records(self, rows: range, pictures: Iterable[Looked]) -> list[dict[str, Any]]:
        """Lines of the table."""
        records: list[dict[str, Any]] = []
        for batch in self.batched(self.waiting(rows, pictures, records)):
            size = self.at_a_time(batch[0])
            padded = [picture.pixels for picture in batch] + [batch[-1].pixels] * (size - len(batch))
            mean, std = self.encoder.posterior(torch.stack(padded).to(self.device))
            stored = torch.stack([mean, std], dim=1).to(self.dtype).cpu().numpy()
            for picture, posterior in zip(batch, stored, strict=False):
                picture.record[picture.column] = posterior.tobytes()
        return records

    def waiting(self, rows: range, pictures: Iterable[Looked], records: list[dict[str, Any]]) -> Iterator[Waiting]:
        """What is to be encoded; `records` gets the lines it belongs to."""
        for n, looked in zip(rows, pictures, strict=True):
            records.append(self.line(self.pairs[n], looked.shape))
            for variant, framed in zip(self.variants, looked.variants, strict=False):
                records[-1][f"{variant}time_ids"] = framed.time_ids.numpy().tobytes()
                for column, pixels in zip(latents_of(self.k, variant), framed.pixels, strict=True):
                    yield Waiting(looked.shape, records[-1], column, pixels)

    def at_a_time(self, picture: Waiting) -> int:
        return min(self.batch_size, at_a_time(picture.pixels))

    def batched(self, pictures: Iterable[Waiting]) -> Iterator[list[Waiting]]:
        """Batches of one shape; the last of each shape may be short.

        It is filled up before it is encoded, because the last bits of a convolution depend on the size of its batch,
        and those of a picture should not depend on where a shard ends.
        """
        by_shape: dict[int, list[Waiting]] = defaultdict(list)
        for picture in pictures:
            by_shape[picture.shape].append(picture)
            if len(by_shape[picture.shape]) == self.at_a_time(picture):
                yield by_shape.pop(picture.shape)
        yield from by_shape.values()

    def line(self, row: PairRow, shape: int) -> dict[str, Any]:
        """A record without its posteriors."""
        extra = {f"{EXTRA}{name}": row.extra.get(name) for name in self.pairs.light.column_names}
        texts = [list(list_captions(prompt)) if self.pairs.several else str(prompt) for prompt in row.prompts]
        prompts, scores = (
            dict(zip(of_sides(what, self.k), values, strict=True))
            for what, values in (("prompt", texts), ("score", row.scores))
        )
        ours = {"id": row.id, "prob": row.prob, "weight": row.weight, "shape": shape}
        return dict.fromkeys(self.features) | ours | prompts | scores | extra
