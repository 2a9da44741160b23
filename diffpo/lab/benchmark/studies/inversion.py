"""What inversion costs: training at inverted latents and plain Diffusion-DPO in one loop, network rows counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Step
from diffpo.core.references import NOISE, SCORES, FrozenCopy, Reference, Score, SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.data.pairs import Pairs
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.data.batches import EncodedBatch, ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference, Residual
from diffpo.lab.benchmark.studies.inversion_ways import DPO, WAYS
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.ours import FOREVER, Ours
from diffpo.lab.benchmark.ways.turns import Clock
from diffpo.train.reference_cache import CachedReference, open_answers


@dataclass(frozen=True)
class Turn:
    """One micro-batch of a way.

    Attributes:
        calls: rows of each call of the network without gradient.
    """

    seconds: float
    calls: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured, round by round.

    Attributes:
        turns: by way.
        forward, step: seconds of a forward pass without gradient, and of a forward and a backward pass, by rows.
    """

    case: Case
    turns: dict[str, list[Turn]]
    forward: dict[int, list[float]]
    step: dict[int, list[float]]

    @property
    def rows(self) -> int:
        """In a batch: both sides of its pairs."""
        return 2 * self.case.pairs

    def sides(self, way: str) -> int:
        """How many are compared in a turn."""
        return self.rows * WAYS[way].visits

    def counted(self, way: str) -> float:
        """Forward passes without gradient per compared side."""
        return sum(sum(turn.calls) for turn in self.turns[way]) / (len(self.turns[way]) * self.sides(way))

    def seconds(self, way: str) -> float:
        """Per compared side. Walks are of other lengths in each round, and rounds may be disturbed: so it is the mean
        that the counted calls make, times the median over rounds of what a turn took beyond its own calls."""
        return self.called(way) * median(turn.seconds / self.of_calls(way, turn) for turn in self.turns[way])

    def measured(self, way: str) -> float:
        """How many times as long as plain DPO."""
        return self.seconds(way) / self.seconds(DPO)

    def by_rows(self, way: str) -> float:
        """The same from counted rows, if each costs what it costs in a whole batch."""
        forward, step = median(self.forward[self.rows]), median(self.step[self.rows])
        return (self.counted(way) * forward + step) / (forward + step)

    def by_calls(self, way: str) -> float:
        """The same from counted calls, each at what a call of so many rows costs."""
        return self.called(way) / self.called(DPO)

    def called(self, way: str) -> float:
        """Seconds per compared side of all calls of the network."""
        return mean(self.of_calls(way, turn) for turn in self.turns[way]) / self.sides(way)

    def of_calls(self, way: str, turn: Turn) -> float:
        return sum(median(self.forward[n]) for n in turn.calls) + median(self.step[self.sides(way)])


@dataclass(frozen=True, eq=False)
class Several(Objective):
    """Objectives that take turns: epoch e is that of number e % n, at the draws of epoch e // n for all of them."""

    objectives: Sequence[Objective]

    def __call__(self, policy: Denoiser, reference: Reference, batch: ImageBatch, draws: Draws) -> Step:
        turn, drawn = of_turn(draws, len(self.objectives))
        return self.objectives[turn](policy, reference, batch, drawn)


class PartlyRemembered(Reference):
    """A frozen network that in each turn is asked some kinds of answers, and remembers the others.

    Args:
        kinds: what is remembered in each turn.
    """

    def __init__(self, asked: Reference, remembered: Reference, kinds: Sequence[tuple[str, ...]]):
        self.asked, self.remembered, self.kinds, self.turn = asked, remembered, kinds, 0

    def at(self, draws: Draws | None) -> None:
        assert draws is not None
        self.turn, drawn = of_turn(draws, len(self.kinds))
        self.remembered.at(drawn)

    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        return (self.remembered if what in self.kinds[self.turn] else self.asked)(score, what)


def of_turn(draws: Draws, turns: int) -> tuple[int, Draws]:
    """Whose turn it is, and what is drawn in it: the same in all turns of a round."""
    return draws.epoch[0] % turns, replace(draws, epoch=tuple(epoch // turns for epoch in draws.epoch))


@dataclass(eq=False)
class Rounds(Pairs):
    """One batch for each way in turn, at new draws in each round; between them other work.

    Attributes:
        calls: to which the rows of each call of the network without gradient are added.
        turns, seconds: what was measured of ways and of other work.
    """

    batch: EncodedBatch
    ways: Sequence[str]
    others: Mapping[str, Callable[[], object]]
    rounds: int
    clock: Clock
    calls: list[int] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.batch.row)

    def watch(self, networks: set[nn.Module]) -> None:
        def note(network: nn.Module, inputs: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                self.calls.append(len(inputs[0]))

        for network in networks:
            network.register_forward_hook(note)

    def batches(self, share: ProcessShare) -> Iterator[EncodedBatch]:
        self.turns |= {way: [] for way in self.ways}
        self.seconds |= {name: [] for name in self.others}
        for at in range(self.rounds):
            for place, way in enumerate(self.ways):
                self.calls.clear()
                began = self.clock()
                yield replace(self.batch, epoch=(at * len(self.ways) + place,) * self.size)
                self.turns[way].append(Turn(self.clock() - began, tuple(self.calls)))
            for name, act in self.others.items():
                began = self.clock()
                act()
                self.seconds[name].append(self.clock() - began)


def time_ways(case: Case, ways: Sequence[str], rounds: int, warmup: int, clock: Clock) -> Found:
    """Micro-batches of the ways in turn, as `diffpo.fit` takes them; none contains the optimizer's step.

    Raises:
        Refusal: if there is no such way.
    """
    if unknown := sorted(set(ways) - set(WAYS)):
        raise Refusal(f"No ways are called {unknown}; choose among {list(WAYS)}.")
    chosen = [WAYS[way] for way in ways]
    objective = Several([DenoisingPreference(noising=way.noising) for way in chosen])
    ours = Ours(case, case.sizes.pipeline(case.device), objective)
    batch, asked = ours.encoded(), ours.model.reference()
    assert isinstance(asked, FrozenCopy | SwitchedOff)
    image = batch.to(case.device).sampled(Draws(0, batch.epoch, batch.row, case.device))
    whole = sorted({case.pairs * way.visits for way in chosen} | {case.pairs})
    forward, step = passes(case, ours.model.denoiser, asked, image, sorted({*whole, *range(1, case.pairs)}), whole)
    others = {f"forward {n}": act for n, act in forward.items()} | {f"step {n}": act for n, act in step.items()}
    pairs = Rounds(batch, ways, others, warmup + rounds, clock)
    pairs.watch({ours.model.unet, asked.model})
    with TemporaryDirectory() as folder:
        known = nothing_but_zeros(Path(folder), warmup + rounds, image)
        ours.train(pairs, PartlyRemembered(asked, known, [way.remembers for way in chosen]), FOREVER)
    return Found(
        case,
        {way: turns[warmup:] for way, turns in pairs.turns.items()},
        {n: pairs.seconds[f"forward {n}"][warmup:] for n in forward},
        {n: pairs.seconds[f"step {n}"][warmup:] for n in step},
    )


Passes = dict[int, Callable[[], object]]  # by rows


def passes(
    case: Case, policy: Denoiser, asked: Reference, image: ImageBatch, forward: Sequence[int], step: Sequence[int]
) -> tuple[Passes, Passes]:
    """Errors of the frozen network, and of the trained one with their gradient, at so many pairs."""

    def residual(pairs: int) -> Residual:
        some = of_size(image, pairs)
        draws = Draws(0, (0,) * pairs, some.row, image.latents.device)
        return Residual(policy, ForwardNoise()(policy, None, some, draws))

    def ahead(at: Residual) -> None:
        with case.autocast():
            asked(at.squared)

    def back_and_forth(at: Residual) -> None:
        with case.autocast():
            loss = at.squared(policy.unet).mean()
        loss.backward()

    return (
        {2 * n: partial(ahead, residual(n)) for n in forward},
        {2 * n: partial(back_and_forth, residual(n)) for n in step},
    )


def of_size(image: ImageBatch, pairs: int) -> ImageBatch:
    """So many pairs of the batch, again from its beginning if there are not as many."""
    place = torch.arange(pairs, device=image.latents.device) % len(image.row)
    cond, label = image.cond.map(lambda x: x[:, place]), image.label.map(lambda x: x[..., place])
    return ImageBatch(image.latents[:, place], cond, label, tuple(image.row[i] for i in place.tolist()))


def nothing_but_zeros(folder: Path, epochs: int, image: ImageBatch) -> CachedReference:
    """A reference that remembers zeros of both kinds."""
    k, pairs, *latents = image.latents.shape
    open_answers(folder, {}, {SCORES: (epochs, pairs, k), NOISE: (epochs, pairs, k, *latents)})
    remembered = CachedReference(None, folder)
    remembered.fill(0.0)
    return remembered
