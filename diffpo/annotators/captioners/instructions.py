"""What models are asked for: our own words, since DCPO (arXiv:2502.06023) does not publish its instructions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffpo.annotators.captioners.roles import Perturber, Strength
from diffpo.core.refusal import Refusal

DESCRIBE = (
    "This picture was made by a program that was told: {prompt}\n"
    "Say in one sentence of at most 40 words what the picture really shows, also where that differs from what the "
    "program was told. Answer with this sentence only."
)

KEEP = "Answer with the new text only, in one line and about as long as the old one.\nText: {text}"
REWRITE = (
    f"Change a few words of this text into other words that mean the same. {KEEP}",
    f"Rewrite this text: change about half of its words, and let its meaning drift a little. {KEEP}",
    f"Rewrite this text with nearly no word in common, and change some of what it describes. {KEEP}",
)


def require_template(instruction: str, placeholder: str, asker: object) -> None:
    """Raise a Refusal if an instruction has no place for what is asked about."""
    if placeholder not in instruction:
        raise Refusal(
            f"{type(asker).__name__} has the instruction {instruction!r} without {placeholder}; write it where the "
            "text shall stand."
        )


@dataclass(frozen=True, eq=False)
class InstructedPerturber(Perturber):
    """A perturber that is told in words how far to go; stands before the class that asks a model.

    Args:
        instructions: what is asked for weak, medium and strong; {text} is the text to be perturbed.
    """

    answers: ClassVar[Callable[..., list[str]]]
    """What the model says to questions, of seeds; of the class beside this one."""

    temperature: float = 0.7
    instructions: tuple[str, str, str] = REWRITE

    def __post_init__(self):
        for instruction in self.instructions:
            require_template(instruction, "{text}", self)

    @property
    def asks(self) -> dict[str, Any]:
        return {"instructions": list(self.instructions)}

    def __call__(self, texts: Sequence[str], strength: Strength, seeds: Sequence[int]) -> list[str]:
        instruction = self.instructions[strength.value]
        return self.answers([instruction.replace("{text}", self.spoken(text)) for text in texts], seeds)
