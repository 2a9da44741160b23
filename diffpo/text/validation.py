"""Which texts are kept from training and judged during it."""

from dataclasses import dataclass

from diffpo.held_out import Split
from diffpo.text.data import TextData


@dataclass(frozen=True)
class HeldOutTexts(Split):
    """Held-out pairs of texts."""

    def plain(self, data: TextData) -> TextData:
        return data
