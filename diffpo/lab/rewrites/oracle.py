"""The oracle of rewrites: reads each one exactly, nothing learned.

It stands for the person whose taste the preference pairs express, so its noise-free verdict may judge what was trained
on the noisy one. A rewrite that is no full caption of the tiny world loses every comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.evaluation.scorer import TextScorer, require_as_many
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES, read_caption
from diffpo.lab.shapes.scenes import Attributes
from diffpo.lab.shapes.scorer import stack_scores

FAMILIES = (*TRAINING_FAMILIES, EVALUATION_FAMILY)
NEEDED = {"color", "shape", "background", "position"}
TASTE = {"size", "position", "background"}
SIZES_LIKED = {"large": 1.0, None: 0.5, "small": 0.0}
POSITIONS_LIKED = {"center": 1.0, "top": 0.5, "bottom": 0.5, "left": 0.0, "right": 0.0}
BEHIND_DEEP = {"white": 1.0, "gray": 0.5, "black": 0.0, "navy": 0.0, "brown": 0.0}
BEHIND_BRIGHT = {"black": 1.0, "navy": 0.5, "white": 0.0, "gray": 0.0, "brown": 0.0}
BEHIND_LIKED = {color: BEHIND_DEEP for color in ("red", "green", "blue")}
BEHIND_LIKED |= {color: BEHIND_BRIGHT for color in ("yellow", "cyan", "pink")}


def read_rewrite(rewrite: str) -> Attributes | None:
    """What a rewrite states; None if it is not, word by word, a caption with color, shape, background and position."""
    try:
        written = read_caption(rewrite)
    except ValueError:
        return None
    full = written.stated().keys() >= NEEDED
    return written if full and any(family(written) == rewrite for family in FAMILIES) else None


def kept(asked: Attributes, written: Attributes | None) -> float:
    """Share of the attributes asked for that the rewrite states."""
    if written is None:
        return 0.0
    stated, found = asked.stated(), written.stated()
    return sum(found.get(name) == value for name, value in stated.items()) / len(stated)


def style(asked: Attributes, written: Attributes | None) -> float:
    """What the hidden taste likes of what was left open, in [0, 1]: large objects, in the center, in contrast to the
    background: the mean over those of the three that the request leaves open."""
    if written is None:
        return 0.0
    assert written.color is not None
    assert written.background is not None
    assert written.position is not None
    liked = {
        "size": SIZES_LIKED[written.size],
        "position": POSITIONS_LIKED[written.position],
        "background": BEHIND_LIKED[written.color][written.background],
    }
    free = [value for name, value in liked.items() if name not in asked.stated()]
    return sum(free) / len(free)


def utility(asked: Attributes, written: Attributes | None) -> float:
    """The hidden utility: share of kept attributes plus style, in [0, 2]; -1 if the rewrite is no caption."""
    return -1.0 if written is None else kept(asked, written) + style(asked, written)


@dataclass(frozen=True)
class RewriteOracle(TextScorer):
    """The hidden utility of the tiny language world without its noise.

    Its aspects are `attributes` (share of the stated ones that the rewrite keeps), `style` and `clean` (whether it is
    a full caption), all in [0, 1].
    """

    @property
    def name(self) -> str:
        return "oracle"

    @property
    def model_id(self) -> str:
        return "diffpo.tinyworld.language.oracle"

    @property
    def version(self) -> str:
        return "attributes kept + style, -1 if no caption"

    def __call__(self, prompts: Sequence[str], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        return stack_scores([utility(asked, written) for asked, written in read_captions(prompts, candidates)])

    def aspects(self, prompts: Sequence[str], candidates: Sequence[Any]) -> dict[str, Float[Tensor, " n"]]:
        both = read_captions(prompts, candidates)
        return {
            "attributes": stack_scores([kept(asked, written) for asked, written in both]),
            "style": stack_scores([style(asked, written) for asked, written in both]),
            "clean": stack_scores([float(written is not None) for _, written in both]),
        }

    def check(self, prompts: Sequence[str]) -> None:
        """Raise a Refusal if a prompt asks for nothing of the tiny world, or leaves nothing open to the taste."""
        for prompt in prompts:
            if not TASTE - read_caption(prompt).stated().keys():
                raise Refusal(f"{prompt!r} leaves none of {', '.join(sorted(TASTE))} open; shorten it.")


def read_captions(prompts: Sequence[str], rewrites: Sequence[str]) -> list[tuple[Attributes, Attributes | None]]:
    require_as_many(prompts, rewrites)
    return [(read_caption(prompt), read_rewrite(rewrite)) for prompt, rewrite in zip(prompts, rewrites, strict=True)]
