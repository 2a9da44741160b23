"""Row maps that look at pictures, and at what they were made for."""

from dataclasses import dataclass

from diffpo.cells import Cell, Held
from diffpo.diffusion.encoded import EncodedPicture
from diffpo.draws import Draws
from diffpo.pictures import BrokenImage, image_size
from diffpo.refusal import Refusal
from diffpo.rows import PairRow, RowMap
from diffpo.typed import captions, shown


@dataclass(frozen=True)
class TextPrompts(RowMap):
    """Pictures are made for texts: what all rows of pictures go through after their other maps.

    Raises:
        Refusal: if a prompt is neither a text nor several, or is a chat.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        for prompt in row.prompts:
            texts = () if prompt is None else captions(prompt)
            if not all(isinstance(text, str) and not is_chat(text) for text in texts):
                raise Refusal(
                    f"Row {row.id} has the prompt {shown(prompt)}, of type {type(prompt).__name__}; pictures are made "
                    "for plain texts, not for messages of a chat: name a column of these as prompt of the source."
                )
        return row


def is_chat(text: str) -> bool:
    """Whether a text is a list of messages written as JSON."""
    return text.lstrip().startswith(("[", "{")) and '"role"' in text and '"content"' in text


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
    return image_size(candidate.read(), candidate.folder, candidate.most)
