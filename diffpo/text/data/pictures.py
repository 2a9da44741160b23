"""Rows of texts about pictures: where they come from, and the corrupted picture that one candidate is about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.data.files.records import Cell, Held
from diffpo.data.layouts import Columns
from diffpo.data.rows import LastMap, PairRow
from diffpo.data.source import Refer
from diffpo.text.data.completions import Candidate, Completion, Segment


@dataclass(frozen=True)
class PictureColumns(Columns):
    """Columns of questions, each about a picture, and of a chosen and a rejected answer.

    Args:
        prompt: column with the question.
        image: column with the picture: bytes, `datasets.Image`, or a path.
        corrupted: column with a corrupted picture, if there is one.
    """

    image: str = "image"
    corrupted: str | None = None

    @property
    def pictures(self) -> tuple[str, ...]:
        return (self.image,) if self.corrupted is None else (self.image, self.corrupted)

    @property
    def candidates(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self.chosen, self.rejected, *self.pictures)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        row = super().row(index, record, cell)
        return replace(row, extra={**record, **{name: cell(name) for name in self.pictures}})


class Crop(NamedTuple):
    """A part of a picture that has the picture's own aspect ratio.

    Attributes:
        share: of the area.
        across, down: its place, 0 being left or top and 1 right or bottom.
    """

    share: float
    across: float
    down: float

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Resized to the size of the whole, so that the network gives it as many tokens."""
        side = sqrt(self.share)
        wide, high = max(1, round(side * picture.width)), max(1, round(side * picture.height))
        left, top = round(self.across * (picture.width - wide)), round(self.down * (picture.height - high))
        return picture.crop((left, top, left + wide, top + high)).resize(picture.size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class PictureAnswer(Completion):
    """An answer, and the picture that it is about.

    Attributes:
        crop: what is shown of the picture; None is all of it.
    """

    picture: Cell | Held
    crop: Crop | None = None

    def shown(self) -> Image.Image:
        """The picture as the network is shown it.

        Raises:
            Refusal: if it cannot be read.
        """
        try:
            whole = read_image(self.picture.read(), self.picture.folder, self.picture.most)
        except BrokenImage as error:
            raise Refusal(f"Its picture cannot be read ({error}); fix or drop the row.") from error
        return self.crop(whole) if self.crop else whole


@dataclass(frozen=True)
class CorruptedPicture(LastMap):
    """Show both answers their picture, and add the chosen answer about a corrupted one (mDPO, arXiv:2406.11839).

    Corrupted is a random crop at the picture's own size and aspect ratio. It is a function of seed and row, so every
    visit sees the same, and so do policy and reference. Rows whose two answers are the same are dropped. Let it be the
    last map.

    Args:
        low, high: share of the picture's area that is left, drawn uniformly; those of the published code.
        image: column with the picture.
        corrupted: column with a picture to take instead of the crop; null crops.

    Raises:
        Refusal: if the shares are not 0 < low <= high <= 1, or answers are no texts.
    """

    script: ClassVar[str] = "the source diffpo.text.PictureColumns"
    low: float = 0.01
    high: float = 0.2
    image: str = "image"
    corrupted: str | None = None

    def __post_init__(self):
        if not 0 < self.low <= self.high <= 1:
            raise Refusal(f"CorruptedPicture needs 0 < low <= high <= 1, got {self.low} and {self.high}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        chosen, rejected = (read_segments(candidate, row) for candidate in row.candidates)
        if chosen == rejected:
            return None
        picture = row.column(self.image, self)
        answers = PictureAnswer(chosen, picture), PictureAnswer(rejected, picture)
        if self.corrupted is None:
            share = self.low + (self.high - self.low) * draws.uniform("crop_share").item()
            crop = Crop(share, draws.uniform("crop_across").item(), draws.uniform("crop_down").item())
            third = replace(answers[0], crop=crop)
        else:
            third = replace(answers[0], picture=row.column(self.corrupted, self))
        prompts, scores = (*row.prompts, row.prompts[0]), (*row.scores, 0.0)
        return replace(row, prompts=prompts, candidates=(*answers, third), scores=scores)


def read_segments(candidate: Candidate | None, row: PairRow) -> tuple[Segment, ...]:
    if candidate is None:
        return ()
    if isinstance(candidate, Completion):
        return candidate.segments
    if isinstance(candidate, str):
        return (Segment(candidate),)
    raise Refusal(f"Row {row.id} answers with a list of messages; answers about pictures have to be texts.")
