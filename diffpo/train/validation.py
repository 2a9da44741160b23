"""Held-out pairs, judged during a run with the same noise each time: accuracy that learning by heart cannot raise."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.data.pairs import Pairs
from diffpo.data.rows import ForTraining, ForValidation
from diffpo.data.sampler import ProcessShare
from diffpo.data.source import Source
from diffpo.train.metrics import Meter
from diffpo.train.run import Run
from diffpo.train.state.best import OF_VALIDATION, KeepBest

# Policy as wrapped for training, collated batch and its draws -> what the objective calls policy and batch.
Prepare = Callable[[nn.Module, Any, Draws], tuple[Any, Any]]
# Of the network as wrapped for training, and the run's reference if it has one.
Measure = Callable[[nn.Module, Reference | None], dict[str, Float[Tensor, ""]]]


@dataclass(frozen=True, eq=False)
class Validation:
    """What is judged, and when.

    Attributes:
        pairs: none of them is trained on.
        every: optimiser steps between judgements; one more comes at the end.
        count: pairs judged, rounded up to whole batches; more than there are count twice, with other noise.
        keep_best: what decides which weights are the result; None exports the last.
        beside: what else is measured of the network, under the same names on every process.
    """

    pairs: Pairs
    every: int
    count: int
    keep_best: KeepBest | None = None
    beside: tuple[Measure, ...] = ()

    def begin(self, *learner: Any) -> None:
        """Note what has to be known of the policy before its first step; every process has to call it.

        Args:
            learner: what `__call__` is given. A run that is resumed has taken up nothing yet.
        """

    def __call__(
        self,
        objective: Objective,
        policy: nn.Module,
        model: nn.Module,
        reference: Reference | None,
        prepare: Prepare,
        run: Run,
    ) -> dict[str, float]:
        """The objective's metrics on the held-out pairs, as `validation/...`; every process has to call it.

        Args:
            policy: the network itself, which stands in evaluation mode meanwhile.
            model: the network as wrapped for training.
        """
        together = run.config.per_device_batch_size * run.accelerator.num_processes
        meter = self.judge(objective, policy, model, reference, prepare, run, math.ceil(self.count / together))
        return {f"{OF_VALIDATION}{name}": value for name, value in meter.read().items()}

    def names(self, *learner: Any) -> list[str]:
        """What `__call__`, given the same, tells of each metric after `validation/`: one batch is judged."""
        return self.judge(*learner, batches=1).names

    @torch.no_grad()
    def judge(
        self,
        objective: Objective,
        policy: nn.Module,
        model: nn.Module,
        reference: Reference | None,
        prepare: Prepare,
        run: Run,
        batches: int,
    ) -> Meter:
        """Metrics of some batches for each process."""
        accelerator, batch = run.accelerator, run.config.per_device_batch_size
        share = ProcessShare(batch, run.seed, accelerator.process_index, accelerator.num_processes)
        meter = Meter(accelerator)
        policy.eval()
        if reference is not None:
            reference.at(None)
        for raw in islice(self.pairs.batches(share), batches):
            draws = Draws(run.seed, raw.epoch, raw.row, accelerator.device)
            trained, encoded = prepare(model, raw, draws)
            with run.autocast():
                result = objective(trained, reference, encoded, draws)
            meter.add(result.metrics)
            meter.add_number("loss", result.loss)
        for measure in self.beside:
            with run.autocast():
                measured = measure(model, reference)
            for name, value in measured.items():
                meter.add_number(name, value)
        policy.train()
        return meter


@dataclass(frozen=True)
class ValidationSplit(ABC):
    """A validation split: the objective's metrics on pairs that are never trained on, as `validation/...`.

    Args:
        share: of the prompts that is held out, all their pairs together; a hash of the prompt decides, so the split is
            the same in every run.
        source: pairs from elsewhere instead, e.g. a set's own validation split; then nothing is held out.
        every: optimiser steps between judgements.
        pairs: how many are judged.
        keep_best: which judgement's weights are the result, and when to stop; null exports the last.

    Raises:
        Refusal: if the share is not between 0 and 1, or a count is not positive.
    """

    share: float = 0.05
    source: Source | None = None
    every: int = 100
    pairs: int = 256
    keep_best: KeepBest | None = None

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise Refusal(f"validation.share must lie between 0 and 1, got {self.share}.")
        if self.every < 1 or self.pairs < 1:
            raise Refusal(f"validation.every and validation.pairs must be at least 1, got {self}.")

    @abstractmethod
    def plain(self, data: Any) -> Any:
        """The data (a track's `data`, with `source`, `rows` and `open`) read without randomness."""

    def held_out(self, data: Any) -> Any:
        """The pairs to judge: same row maps, no randomness."""
        held = self.plain(data)
        if self.source is None:
            return replace(held, rows=[ForValidation(self.share), *held.rows])
        return replace(held, source=self.source)

    def split(self, data: Any, *opening: Any, **named: Any) -> tuple[Pairs, Validation]:
        """Pairs to train on, and those to judge.

        Args:
            opening, named: what `data.open` takes, the seed first.
        """
        kept = data if self.source else replace(data, rows=[ForTraining(self.share), *data.rows])
        judged = self.held_out(data).open(*opening, **named)
        return kept.open(*opening, **named), Validation(judged, self.every, self.pairs, self.keep_best)


def keeps_best(validation: ValidationSplit | None) -> bool:
    """Whether a validation decides which weights are the result."""
    return validation is not None and validation.keep_best is not None
