"""One way of training with nothing else in memory, as it has to be to count or measure what it takes."""

from pathlib import Path
from tempfile import TemporaryDirectory

from diffpo.lab.benchmark.ways.bare import BARE, Bare
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.ours import ENCODED, PIXELS, REMEMBERED, Ours, remembering
from diffpo.lab.benchmark.ways.published import PUBLISHED, published
from diffpo.lab.benchmark.ways.turns import Clock, Turns

WAYS = (PUBLISHED, PIXELS, ENCODED, REMEMBERED, BARE)


def step_alone(way: str, case: Case, steps: int, clock: Clock) -> None:
    """Take some optimizer steps, calling the clock before and after each."""
    pipeline = case.sizes.pipeline(case.device)
    if way in (PUBLISHED, BARE):
        step = published(case, pipeline) if way == PUBLISHED else Bare(case, pipeline)
        del pipeline
        for _ in range(steps):
            clock()
            step()
            clock()
        return
    ours = Ours(case, pipeline)
    raw = ours.batches()[way]
    if way != PIXELS:
        ours.leave_encoders()
    with TemporaryDirectory() as folder:
        reference = remembering(None, case.pairs, Path(folder)) if way == REMEMBERED else ours.model.reference()
        ours.train(Turns({way: raw}, {}, steps, clock), reference)
