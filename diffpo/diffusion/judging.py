"""Pictures put to scorers (and captioners): read ahead by threads while those work; an unreadable one is marked."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from diffpo.pictures import BrokenImage
from diffpo.scoring import Scorer

THREADS = min(16, os.cpu_count() or 1)

Scores = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Question:
    """How good is this picture for this prompt?

    Attributes:
        row: its number, by which the asker knows it again.
        read: gives the picture, or raises BrokenImage.
    """

    row: int
    prompt: str
    read: Callable[[], Image.Image]


def judged(
    scorers: Sequence[Scorer], questions: Sequence[Question], batch_size: int = 32
) -> Iterator[list[tuple[Question, Scores]]]:
    """Batch by batch each question with what the scorers say: scores by the scorer's name, aspects by their own.

    A picture that cannot be read has the score None, and no aspects. While one batch is scored, the next is read.
    """
    unread: Scores = {scorer.name: None for scorer in scorers}
    for batch in read_ahead(questions, batch_size):
        readable = [(question.prompt, found) for question, found in batch if found]
        said = iter(answers(scorers, [prompt for prompt, _ in readable], [found for _, found in readable]))
        yield [(question, next(said) if found else unread) for question, found in batch]


def read_ahead(questions: Sequence[Question], batch_size: int) -> Iterator[list[tuple[Question, Image.Image | None]]]:
    """Batch by batch each question with its picture, or with None if that cannot be read."""
    batches = [questions[begin : begin + batch_size] for begin in range(0, len(questions), batch_size)]
    with ThreadPoolExecutor(THREADS, "reading") as pool:
        ahead: deque[list[Future[Image.Image | None]]] = deque()
        for i, batch in enumerate(batches):
            while len(ahead) < 2 and i + len(ahead) < len(batches):
                ahead.append([pool.submit(picture, question) for question in batches[i + len(ahead)]])
            yield list(zip(batch, [future.result() for future in ahead.popleft()], strict=True))


def picture(question: Question) -> Image.Image | None:
    try:
        return question.read()
    except BrokenImage:
        return None


def answers(scorers: Sequence[Scorer], prompts: list[str], pictures: list[Image.Image]) -> list[Scores]:
    if not pictures:
        return []
    columns = {}
    for scorer in scorers:
        columns |= {scorer.name: scorer(prompts, pictures)} | scorer.aspects(prompts, pictures)
    names = list(columns)
    return [
        dict(zip(names, row, strict=True))
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
