"""A language model that is asked which of two answers is better."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.annotators.captioners.chat import ChatSpeaker
from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.endpoint import Served
from diffpo.annotators.user_judges.wording import read_choice
from diffpo.rounds.contents import draw_for
from diffpo.rounds.roles import Judge

WHICH = "Which of the two answers is better? Answer with 1 or 2 only."


@dataclass(frozen=True)
class Shot:
    """A comparison that is shown before the question.

    Args:
        better: 1 or 2.
    """

    prompt: str
    first: str
    second: str
    better: int


class Said(NamedTuple):
    """What became of one question."""

    prob: float
    readable: bool


@dataclass(frozen=True, eq=False)
class Asked(Judge):
    """A chat model of transformers, or one at an endpoint, with the parsing that judges for users have.

    The last line of its answer has to name 1 or 2; what names neither or both counts one half, and is counted. Models
    go by the place of an answer: put this into diffpo.rounds.BothOrders.

    Args:
        speaker: diffpo.annotators.ChatSpeaker or diffpo.annotators.Served, best with temperature 0 and few tokens.
        instruction: what is asked after the two answers. A model that is to think before needs more max_tokens.
        shots: comparisons that are shown before, with what was better.
    """

    speaker: ChatSpeaker | Served
    instruction: str = WHICH
    shots: list[Shot] = field(default_factory=list)
    _noted: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        shots = [asdict(shot) for shot in self.shots]
        return {
            "judge": type(self).__name__,
            "instruction": self.instruction,
            "shots": shots,
            "asks": self.speaker.identity,
        }

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        asked = list(zip(prompts, first, second, strict=True))
        seeds = (draw_for(0, "asked", prompts, first, second) * 2**31).long().tolist()
        try:
            answers = self.speaker.answers([self.word(*question) for question in asked], seeds)
        except Interrupted as error:
            raise Interrupted(str(error), {i: read_prob(text).prob for i, text in error.said.items()}) from error
        said = [read_prob(text) for text in answers]
        self._noted["unparsable"] += sum(not one.readable for one in said)
        return torch.tensor([one.prob for one in said], dtype=torch.float64)

    def word(self, prompt: Any, first: Any, second: Any) -> str:
        """A question in words."""
        shown = [
            f"{self.lay_out(shot.prompt, shot.first, shot.second)}\nThe better answer: {shot.better}"
            for shot in self.shots
        ]
        return "\n\n".join([*shown, f"{self.lay_out(prompt, first, second)}\n{self.instruction}"])

    def lay_out(self, prompt: Any, first: Any, second: Any) -> str:
        sides = zip(("Prompt", "Answer 1", "Answer 2"), (prompt, first, second), strict=True)
        return "\n".join(f"{name}: {self.speaker.spoken(write_text(content))}" for name, content in sides)

    @property
    def noted(self) -> Counter[str]:
        return Counter(self._noted)


def read_prob(text: str) -> Said:
    choice = read_choice(text)
    return Said(0.5 if choice is None else float(choice == 1), choice is not None)


def write_text(content: Any) -> str:
    """A text as it is; of chat messages, who says what."""
    if isinstance(content, str):
        return content
    return "\n".join(f"{message['role']}: {message['content']}" for message in content)
