"""Pictures put to scorers (and captioners): read ahead by threads while those work; an unreadable one is marked."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Condition

from PIL import Image

from diffpo.data.files.pictures import BrokenImage
from diffpo.evaluation.scorer import Scorer

THREADS = min(16, os.cpu_count() or 1)
PIXELS = 2**27  # in memory: two batches of 64 pictures of a megapixel, 400 MB

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


def score_batches(
    scorers: Sequence[Scorer], questions: Sequence[Question], batch_size: int = 32
) -> Iterator[list[tuple[Question, Scores]]]:
    """Batch by batch each question with what the scorers say: scores by the scorer's name, aspects by their own.

    A picture that cannot be read has the score None, and no aspects. While one batch is scored, the next is read.
    """
    unread: Scores = {scorer.name: None for scorer in scorers}
    for batch in read_ahead(questions, batch_size):
        readable = [(question.prompt, found) for question, found in batch if found]
        said = iter(ask_scorers(scorers, [prompt for prompt, _ in readable], [found for _, found in readable]))
        yield [(question, next(said) if found else unread) for question, found in batch]


def read_ahead(
    questions: Sequence[Question], batch_size: int, together: int = 1, most: int = PIXELS
) -> Iterator[list[tuple[Question, Image.Image | None]]]:
    """Batch by batch each question with its picture, or with None if that cannot be read.

    Large pictures make smaller batches: a batch and what is read while it is judged take `most` pixels in all, and a
    few pictures more, however large and however mixed they are.

    Args:
        together: questions that must not be parted; batch_size is a multiple of it.
    """
    room, coming = Room(most), iter(enumerate(questions))
    ahead = deque[tuple[Question, Future[Image.Image | None]]]()
    batch: list[tuple[Question, Image.Image | None]] = []
    with ThreadPoolExecutor(THREADS, "reading") as pool, room:
        for number in range(len(questions)):
            for n, question in islice(coming, 2 * batch_size - len(ahead)):
                ahead.append((question, pool.submit(room.read, n, question)))
            room.want(number)
            question, future = ahead.popleft()
            batch.append((question, future.result()))
            sizes = [pixels(found) for _, found in batch]
            is_large = sum(sizes) + together * max(sizes) > most // 2 and len(batch) % together == 0
            if len(batch) == batch_size or is_large or number + 1 == len(questions):
                yield batch
                room.give_back(sum(sizes))
                batch = []


class Room:
    """Pixels that may be in memory: threads that would read more wait, but for what is wanted next."""

    def __init__(self, most: int):
        self.most, self.held, self.wanted, self.changed = most, 0, 0, Condition()

    def __enter__(self) -> "Room":
        return self

    def __exit__(self, *_: object) -> None:
        self.want(sys.maxsize)  # whoever still waits is let go

    def read(self, number: int, question: Question) -> Image.Image | None:
        with self.changed:
            self.changed.wait_for(lambda: self.held < self.most or number <= self.wanted)
        if self.wanted == sys.maxsize:
            return None
        found = picture(question)
        with self.changed:
            self.held += pixels(found)
        return found

    def want(self, number: int) -> None:
        with self.changed:
            self.wanted = number
            self.changed.notify_all()

    def give_back(self, pixels: int) -> None:
        with self.changed:
            self.held -= pixels
            self.changed.notify_all()


def pixels(picture: Image.Image | None) -> int:
    return picture.width * picture.height if picture else 0


def picture(question: Question) -> Image.Image | None:
    try:
        return question.read()
    except BrokenImage:
        return None


def ask_scorers(scorers: Sequence[Scorer], prompts: list[str], pictures: list[Image.Image]) -> list[Scores]:
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
