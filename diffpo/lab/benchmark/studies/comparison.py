"""Our ways, the published way and the bare loop in one process, and what the arithmetic says of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.lab.benchmark.cost.arithmetic import Costs
from diffpo.lab.benchmark.ways.bare import BARE, Bare
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.ours import ENCODED, PIXELS, REMEMBERED, AskedOrRemembered, Ours, remembering
from diffpo.lab.benchmark.ways.published import PUBLISHED, published
from diffpo.lab.benchmark.ways.turns import Clock, Turns, ratio

DRAWS = "draws (ours)"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Seconds of every way and every part of the published way, round by round.

    Attributes:
        accumulate: micro-batches per optimizer step.
    """

    case: Case
    accumulate: int
    seconds: dict[str, list[float]]

    @property
    def costs(self) -> Costs:
        """The parts' own times; the optimizer's is shared by the micro-batches."""
        whole = Costs.medians(self.seconds)
        return replace(whole, optimizer=whole.optimizer / self.accumulate)

    def gain(self, way: str) -> float:
        """How many times as fast as the published way."""
        return ratio(self.seconds[PUBLISHED], self.seconds[way])

    def against_bare(self, way: str) -> float:
        """How many times as long as the bare loop."""
        return ratio(self.seconds[way], self.seconds[BARE])


def compare(case: Case, steps: int, warmup: int, accumulate: int, clock: Clock) -> Comparison:
    """Micro-batches of all ways in turn.

    With more micro-batches per optimizer step than are taken, none of them contains one.
    """
    pipelines = [case.sizes.pipeline(case.device) for _ in range(3)]
    ours, theirs = Ours(case, pipelines[0]), published(case, pipelines[1], accumulate)
    others = {PUBLISHED: theirs, BARE: Bare(case, pipelines[2], accumulate), DRAWS: drawn(case)} | theirs.parts()
    turns = Turns(ours.batches(), others, warmup + steps, clock)
    asked = ours.model.reference()
    with TemporaryDirectory() as folder:
        reference = AskedOrRemembered(asked, remembering(asked, case.pairs, Path(folder)))
        ours.train(turns, reference, accumulate)
    return Comparison(case, accumulate, {name: taken[warmup:] for name, taken in turns.seconds.items()})


def drawn(case: Case) -> Callable[[], None]:
    """The random numbers of a batch as we draw them: keyed by row, on the CPU (`diffpo.Draws`)."""
    side, rows = case.sizes.resolution // 8, tuple(range(case.pairs))
    draws = Draws(0, (0,) * case.pairs, rows, case.device)

    def draw() -> None:
        for name in ("vae", "noise"):
            draws.normal(name, 4, side, side)
        draws.integers("timestep", 1000)

    return draw


def encoded_against_bare(
    case: Case, steps: int, warmup: int, clock: Clock, objective: Objective | None = None
) -> float:
    """How many times as long our step from encoded pairs takes as the bare loop's."""
    ours = Ours(case, case.sizes.pipeline(case.device), objective)
    turns = Turns(
        {ENCODED: ours.encoded()}, {BARE: Bare(case, case.sizes.pipeline(case.device))}, warmup + steps, clock
    )
    ours.train(turns, ours.model.reference())
    return ratio(turns.seconds[ENCODED][warmup:], turns.seconds[BARE][warmup:])


Predicted = Callable[[Costs], float]
PREDICTED: dict[str, Predicted] = {
    PIXELS: lambda costs: 1.0,
    ENCODED: lambda costs: costs.gain_without("vae", "text"),
    REMEMBERED: lambda costs: costs.gain_without("vae", "text", "reference"),
}
