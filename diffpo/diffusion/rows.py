"""Row maps that look at pictures."""

from dataclasses import dataclass

from diffpo.cells import Cell, Held
from diffpo.diffusion.encoded import EncodedPicture
from diffpo.draws import Draws
from diffpo.pictures import BrokenImage, image_size
from diffpo.refusal import Refusal
from diffpo.rows import PairRow, RowMap


@dataclass(frozen=True)
class MinSize(RowMap):
    """Drop rows with a picture whose short side is below `side` pixels; only headers are read.

    A picture that cannot be read stays, to be counted as unreadable when it is visited. Pictures that are embedded in
    a table are read whole to find their header, so give the cheaper row maps first.

    Raises:
        Refusal: if `side` is not positive.
    """

    side: int

    def __post_init__(self):
        if self.side < 1:
            raise Refusal(f"MinSize needs a side of at least 1 pixel, got {self.side}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        try:
            sizes = [size(candidate) for candidate in row.candidates]
        except BrokenImage:
            return row
        return row if min(map(min, sizes)) >= self.side else None


def size(candidate: Cell | Held | EncodedPicture) -> tuple[int, int]:
    """Width and height of a picture as its source has it."""
    if isinstance(candidate, EncodedPicture):
        return candidate.size()
    return image_size(candidate.read(), candidate.folder)
