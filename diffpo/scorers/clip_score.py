"""CLIP score: how near picture and prompt are for a CLIP that nobody tuned on preferences."""

from dataclasses import dataclass

from diffpo.scorers.dual import CLIP


@dataclass(frozen=True, eq=False)
class CLIPScore(CLIP):
    """100 times the cosine of picture and prompt (arXiv:2103.00020), in [-100, 100]; not clipped at 0.

    Three numbers go by this name. torchmetrics has max(100 * cosine, 0). CLIPScore (arXiv:2104.08718, eq. 1) is
    2.5 * max(cosine, 0) with "A photo depicts" before the prompt. Clipping would tie whatever is below 0, so it is
    left out here. Numbers of different CLIP models cannot be compared.
    """

    path: str = "openai/clip-vit-large-patch14"

    @property
    def name(self) -> str:
        return "clip_score"

    @property
    def version(self) -> str:
        return f"100 * cosine, not clipped at 0; {self.precision}".replace("torch.", "")

    def scale(self) -> float:
        return 100.0
