"""What differs between methods of several rounds: who answers, where training starts, and what it is held to; and who
trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffpo.core.references import Ema, FrozenCopy, Reference, ReferenceMixture
from diffpo.core.refusal import Refusal
from diffpo.processes.everyone import on_main
from diffpo.rounds.roles import Sampler
from diffpo.rounds.tables import Answers
from diffpo.train.extrapolation import extrapolate

Weights = Path | None  # a folder that a round has written; None is the base


class Start(ABC):
    """Which weights answer in a round, and which ones its training starts from."""

    @abstractmethod
    def answering(self, before: Sequence[Path], folder: Path, base: Path) -> Weights:
        """Every process calls this.

        Args:
            before: weights of the rounds that are done, in their order.
            folder: of the round, where weights may be written.
            base: the base's own weights, if they lie in a folder here.
        """

    def training(self, before: Sequence[Path], folder: Path, base: Path) -> Weights:
        """Those that answer, unless a plan says otherwise."""
        return self.answering(before, folder, base)


@dataclass(frozen=True)
class FromLast(Start):
    """The result of the round before."""

    def answering(self, before: Sequence[Path], folder: Path, base: Path) -> Weights:
        return before[-1] if before else None


@dataclass(frozen=True)
class FirstOfPair(FromLast):
    """The result of the round before answers; every second round trains from where the first of the two did.

    So a pair of rounds is an extragradient step (EGPO, arXiv:2503.08942), and costs what two rounds cost.
    """

    def training(self, before: Sequence[Path], folder: Path, base: Path) -> Weights:
        return super().training(before[:-1] if len(before) % 2 else before, folder, base)


@dataclass(frozen=True)
class FromBase(Start):
    """The base, in each round: what is learned before does not answer (RSO samples so, in one round)."""

    def answering(self, before: Sequence[Path], folder: Path, base: Path) -> Weights:
        return None


@dataclass(frozen=True)
class Momentum(Start):
    """theta + alpha (theta - before), of the weights of the last two rounds (APO accelerated, arXiv:2410.06293).

    For weights that are trained as a whole; those of a LoRA are refused.

    Args:
        alpha: 0 is `FromLast`; the paper takes 0.3.
    """

    alpha: float = 0.3

    def answering(self, before: Sequence[Path], folder: Path, base: Path) -> Weights:
        if not before:
            return None
        made = folder / "start"
        earlier = before[-2] if len(before) > 1 else base
        on_main(lambda: None if made.exists() else extrapolate(before[-1], earlier, made, self.alpha) and None)
        return made


class Anchor(ABC):
    """What the reference of a round is."""

    @abstractmethod
    def make(self, network: nn.Module, base: Callable[[], Reference]) -> Reference:
        """Called before the first step.

        Args:
            network: what is trained, as training starts from it.
            base: makes a reference of the base.
        """


@dataclass(frozen=True)
class ToBase(Anchor):
    """The base in all rounds."""

    def make(self, network: nn.Module, base: Callable[[], Reference]) -> Reference:
        return base()


@dataclass(frozen=True)
class ToStart(Anchor):
    """What the round's training starts from: it moves from round to round, and so does how far the policy may go."""

    def make(self, network: nn.Module, base: Callable[[], Reference]) -> Reference:
        return FrozenCopy(network)


@dataclass(frozen=True)
class ToBoth(Anchor):
    """A mixture of log-likelihoods: `share` of the base, the rest of the start (INPO, arXiv:2407.00617).

    Args:
        share: tau / eta; a third in the paper.

    Raises:
        Refusal: if it is not in [0, 1].
    """

    share: float = 1 / 3

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise Refusal(f"ToBoth needs a share of the base in [0, 1], got {self.share}; the paper takes a third.")

    def make(self, network: nn.Module, base: Callable[[], Reference]) -> Reference:
        return ReferenceMixture([base(), FrozenCopy(network)], [self.share, 1 - self.share])


@dataclass(frozen=True)
class ToAverage(Anchor):
    """A moving average of the policy within the round (TR-DPO, arXiv:2404.09656), from the start on."""

    decay: float = 0.999

    def make(self, network: nn.Module, base: Callable[[], Reference]) -> Reference:
        return Ema(network, self.decay)


@dataclass(frozen=True)
class Training:
    """What one round trains on.

    Attributes:
        start: weights that it starts from.
        pairs: table of pairs, of this round and of those that are kept.
        output_dir: gets the weights; a training that was killed goes on there.
        seed: of its draws.
    """

    start: Weights
    pairs: Path
    reference: Anchor
    output_dir: Path
    seed: int


class RoundLearner(ABC):
    """A track's part of a round: a model that answers, and its training."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its training depends on; rounds of another one are not continued."""

    @property
    @abstractmethod
    def base(self) -> Path:
        """Folder of the base's weights, if they lie in one here."""

    @abstractmethod
    def load(self, weights: Weights) -> Any:
        """The model that answers."""

    @abstractmethod
    def train(self, training: Training) -> None:
        """Train, or go on; every process calls this."""

    def measure(self, weights: Weights, answers: Answers, sampler: Sampler) -> dict[str, float]:
        """Numbers of the model that has answered in a round, for its `round.json`; the main process calls this.

        A track that measures none has none.
        """
        return {}
