"""How a language model is asked which picture a person would prefer, and how its answer is read."""

import re
from collections.abc import Callable

from PIL import Image

from diffpo.annotators.user_judges.roles import Choice, UserQuestion

OPENING = "One person compares pictures, two at a time; both were made for the same caption."
WHICH = (
    "Which of these two pictures would this person prefer? Go by what the comparisons above show of the person's "
    "taste, not by your own. Answer with 1 or 2 only."
)
NUMBER = re.compile(r"(?<![\w.])[12](?!\w|\.\d)")


def word_question(
    question: UserQuestion, instruction: str, spoken: Callable[[str], str] = str
) -> list[str | Image.Image]:
    """A question as words and pictures in their order.

    Args:
        instruction: what is asked in the end.
        spoken: makes captions harmless for the model.
    """
    told: list[str | Image.Image] = [f"{OPENING}\n"]
    for n, example in enumerate(question.support, 1):
        told += [f"Comparison {n}. Caption: {spoken(example.shown.caption)}\n", *side_by_side(*example.pictures)]
        told.append(f"This person preferred picture {example.preferred}.\n")
    told += [f"Now a new comparison. Caption: {spoken(question.caption)}\n"]
    return [*told, *side_by_side(question.first, question.second), instruction]


def side_by_side(first: Image.Image, second: Image.Image) -> list[str | Image.Image]:
    return ["Picture 1:\n", first, "\nPicture 2:\n", second, "\n"]


def read_choice(said: str) -> Choice | None:
    """The number that the last line of an answer names, so that a model may think before it answers.

    None if that line names neither or both.
    """
    lines = said.strip().splitlines()
    named = set(NUMBER.findall(lines[-1])) if lines else set()
    if len(named) != 1:
        return None
    return 1 if named == {"1"} else 2
