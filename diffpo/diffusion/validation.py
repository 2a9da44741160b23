"""Which pictures are kept from training and judged during it."""

from dataclasses import dataclass, replace

from diffpo.diffusion.data import PairData
from diffpo.held_out import Split
from diffpo.rows import FirstCaption


@dataclass(frozen=True)
class HeldOut(Split):
    """Held-out pairs of pictures: no flips, no random crops, no emptied captions, the first of several captions."""

    def plain(self, data: PairData) -> PairData:
        framing = replace(data.framing, flip=False, random_crop=False)
        return replace(data, rows=[*data.rows, FirstCaption()], framing=framing, caption_dropout=0.0, cycle=None)
