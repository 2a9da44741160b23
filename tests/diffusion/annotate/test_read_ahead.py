import threading
import weakref
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from diffpo.data.files.pictures import BrokenImage
from diffpo.diffusion.annotate.read_ahead import THREADS, Question, read_ahead, score_batches
from diffpo.evaluation.scorer import Scorer


@dataclass(frozen=True)
class Size(Scorer):
    side: int = 0

    @property
    def name(self) -> str:
        return ("width", "height")[self.side]

    @property
    def model_id(self) -> str:
        return "none"

    @property
    def version(self) -> str:
        return "1"

    def __call__(self, prompts, candidates):
        return torch.tensor([float(picture.size[self.side]) for picture in candidates])

    def aspects(self, prompts, candidates):
        return {} if self.side else {"letters": torch.tensor([float(len(prompt)) for prompt in prompts])}


def question(row: int, broken: bool = False) -> Question:
    def read() -> Image.Image:
        if broken:
            raise BrokenImage("torn")
        return Image.new("RGB", (row + 1, 2 * row + 1))

    return Question(row, "x" * row, read)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 50])
def test_every_question_gets_its_own_answers_in_order(batch_size):
    batches = list(score_batches([Size(0), Size(1)], [question(row) for row in range(10)], batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for row, (asked, said) in enumerate(answer for batch in batches for answer in batch):
        assert (asked.row, said) == (row, {"width": row + 1, "letters": row, "height": 2 * row + 1})


@pytest.mark.parametrize("broken", [{2}, {0, 5}, {0, 1, 2}, set(range(6))])
def test_unreadable_pictures_are_marked_and_the_others_keep_their_scores(broken):
    answers = [
        x for batch in score_batches([Size()], [question(row, row in broken) for row in range(6)], 3) for x in batch
    ]
    said = {asked.row: scores for asked, scores in answers}
    assert said == {n: {"width": None} if n in broken else {"width": n + 1, "letters": n} for n in range(6)}


def test_the_next_batch_is_read_while_one_is_scored():
    second_was_read = threading.Event()

    @dataclass(frozen=True)
    class Waiting(Size):
        def __call__(self, prompts, candidates):
            assert second_was_read.wait(timeout=10)
            return super().__call__(prompts, candidates)

    def read() -> Image.Image:
        second_was_read.set()
        return Image.new("RGB", (7, 7))

    answers = [x for batch in score_batches([Waiting()], [question(0), Question(1, "", read)], 1) for x in batch]
    assert [said["width"] for _, said in answers] == [1, 7]


def test_an_error_that_is_not_the_pictures_fault_is_raised():
    def read() -> Image.Image:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(score_batches([Size()], [Question(0, "", read)]))


def test_no_question_no_answer():
    assert list(score_batches([Size()], [])) == []


class Counted:
    """How many pixels of the pictures that were read are in memory; 0.25 megapixels each, or what `sizes` say."""

    def __init__(self):
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def question(self, row: int, side: int) -> Question:
        def read() -> Image.Image:
            picture = Image.new("L", (side, side))
            with self.lock:
                self.now += side * side
                self.most = max(self.most, self.now)
            weakref.finalize(picture, self.gone, side * side)
            return picture

        return Question(row, "", read)

    def gone(self, size: int) -> None:
        with self.lock:
            self.now -= size


@pytest.mark.parametrize(
    "sides", [[400] * 60, [4] * 30 + [400] * 60, [400, 4] * 40], ids=["large", "first small", "mixed"]
)
@pytest.mark.parametrize("together", [1, 4])
def test_large_pictures_are_never_many_in_memory(sides, together):
    """Of 160,000 pixels each, with room for five; every thread may hold one more."""
    counted = Counted()
    asked = [counted.question(row, side) for row, side in enumerate(sides)]
    found = []
    for batch in read_ahead(asked, 32, together, most=800_000):
        found += [question.row for question, _ in batch]
        assert len(batch) % together == 0 or found[-1] == len(sides) - 1
        del batch
    assert found == list(range(len(sides)))
    assert counted.most <= 800_000 + (THREADS + together + 1) * 160_000


def test_small_pictures_stand_in_batches_as_large_as_asked_for():
    batches = read_ahead([Counted().question(row, 1024) for row in range(130)], 64)
    assert [len(batch) for batch in batches] == [64, 64, 2]


def test_one_who_stops_asking_waits_for_nobody():
    counted = Counted()
    batches = read_ahead([counted.question(row, 400) for row in range(200)], 32, most=300_000)
    next(batches)
    batches.close()
