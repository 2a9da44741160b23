import pytest
import torch
from torch import nn

from diffpo.lab.benchmark.cost.reads import Reads, reads, reads_of
from diffpo.lab.benchmark.ways.alone import step_alone
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.ours import ENCODED, PIXELS, REMEMBERED, Ours
from diffpo.lab.benchmark.ways.published import PUBLISHED
from diffpo.lab.benchmark.ways.turns import Turns

CPU = torch.device("cpu")
ONES = torch.ones(3)


@pytest.mark.parametrize(
    "work",
    [
        lambda: ONES[0].item(),
        lambda: float(ONES[0]),
        lambda: bool(ONES.all()),
        lambda: ONES.tolist(),
        lambda: ONES.numpy(),
        lambda: ONES.cpu(),
        lambda: ONES.nonzero(),
        lambda: ONES[ONES > 0],
        lambda: torch.equal(ONES, ONES),
    ],
)
def test_what_needs_numbers_waits(work):
    found = reads_of(work)
    assert sum(found.waits.values()) == 1
    assert "test_reads.py" in next(iter(found.waits))


@pytest.mark.parametrize(
    "work", [lambda: ONES.sum() * 2, lambda: ONES[torch.tensor([0, 1])], lambda: torch.where(ONES > 0, ONES, 0.0)]
)
def test_what_stays_on_the_device_does_not(work):
    assert not reads_of(work).waits


def test_an_optimizer_counts_its_steps_on_the_host():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(2)
    assert not reads_of(optimizer.step).waits


def test_python_numbers_are_uploaded():
    found = reads_of(lambda: torch.tensor([1.0, 2.0]).to(CPU))
    assert sum(found.uploads.values()) == 2
    assert not found.waits


def of_the_last_step(way: str, lora: bool = False) -> Reads:
    with reads() as found:
        steps: list[Reads] = []

        def clock() -> float:
            steps.append(Reads(found.waits.copy(), found.uploads.copy()))
            found.forget()
            return 0.0

        step_alone(way, launched("tiny", lora, 1, CPU), 2, clock)
    return steps[-1]


@pytest.mark.parametrize(("way", "lora"), [(PIXELS, False), (ENCODED, True), (REMEMBERED, False)])
def test_a_step_between_two_logs_reads_nothing_back_from_the_device(way, lora):
    assert not of_the_last_step(way, lora).waits


def test_the_published_way_reads_four_numbers():
    assert sum(of_the_last_step(PUBLISHED).waits.values()) == 4


def test_a_log_reads_all_its_numbers_at_once():
    case = launched("tiny", False, 1, CPU)
    ours, noted = Ours(case, case.sizes.pipeline(CPU)), []
    with reads() as found:

        def clock() -> float:
            noted.append(found.waits.copy())
            found.forget()
            return 0.0

        ours.train(Turns({ENCODED: ours.encoded()}, {}, 2, clock), ours.model.reference(), log_every=1)
    assert list(noted[-1].values()) == [1]
