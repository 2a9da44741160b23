"""Judges for persons that need no weights, and questions to put to them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from shards import png
from tiny import picture

from diffpo.annotators.embedders.embedder import Shown
from diffpo.annotators.user_judges.roles import Choice, SupportExample, UserJudge, UserQuestion, Verdict


@dataclass(frozen=True, eq=False)
class Bright(UserJudge):
    """Users prefer the brighter picture, but for those named here.

    Attributes:
        places: what users are answered whatever is shown.
    """

    places: dict[str, Choice | None] = field(default_factory=dict)
    asked: list[UserQuestion] = field(default_factory=list)

    @property
    def identity(self):
        return {"kind": "bright"}

    def __call__(self, questions, seeds):
        self.asked.extend(questions)
        return [Verdict(self.choice(question), "so") for question in questions]

    def choice(self, question: UserQuestion) -> Choice | None:
        brighter = 1 if np.mean(question.first) > np.mean(question.second) else 2
        return self.places.get(question.user, brighter)


def question(caption: str = "a red circle", support: int = 1) -> UserQuestion:
    """Of which the supporting pairs have their preferred picture first, then second, and so on."""
    examples = [
        SupportExample(Shown("on the left", picture(seed=n), picture(seed=n + 1)), 1 + n % 2) for n in range(support)
    ]
    return UserQuestion("ann", tuple(examples), caption, picture("white"), picture("black"))


def drawn(folder: Path, colors_of: dict[str, list[str | None]]) -> Path:
    """One picture of a color for each prompt and user; None is one that cannot be read."""
    for user, colors in colors_of.items():
        (folder / user).mkdir(parents=True)
        lines = [json.dumps({"prompt": f"prompt {n}"}) for n in range(len(colors))]
        (folder / user / "prompts.jsonl").write_text("\n".join(lines) + "\n")
        for n, color in enumerate(colors):
            shown = b"torn" if color is None else png(color, size=(8, 8))
            (folder / user / f"{n:05d}.png").write_bytes(shown)
    return folder
