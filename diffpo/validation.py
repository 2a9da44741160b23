"""Held-out pairs, judged during a run with the same noise each time: accuracy that learning by heart cannot raise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from diffpo.core import Objective
from diffpo.draws import Draws
from diffpo.order import Share
from diffpo.pairs import Pairs
from diffpo.references import Reference
from diffpo.run import Run
from diffpo.tracking import Meter


@dataclass(frozen=True, eq=False)
class Validation:
    """What is judged, and when.

    Attributes:
        pairs: none of them is trained on.
        every: optimiser steps between judgements; one more comes at the end.
        count: pairs judged, rounded up to whole batches; more than there are count twice, with other noise.
    """

    pairs: Pairs
    every: int
    count: int

    @torch.no_grad()
    def __call__(
        self,
        objective: Objective,
        policy: nn.Module,
        model: nn.Module,
        reference: Reference | None,
        prepare: Callable[..., Any],
        run: Run,
    ) -> dict[str, float]:
        """The objective's metrics on the held-out pairs, as `validation/...`; every process has to call it.

        Args:
            policy: the network itself, which stands in evaluation mode meanwhile.
            model: the network as wrapped for training.
        """
        accelerator, batch = run.accelerator, run.config.per_device_batch_size
        share = Share(batch, run.seed, accelerator.process_index, accelerator.num_processes)
        meter = Meter(accelerator)
        policy.eval()
        if reference is not None:
            reference.at(None)
        for raw in islice(self.pairs.batches(share), math.ceil(self.count / (batch * accelerator.num_processes))):
            draws = Draws(run.seed, raw.epoch, raw.row, accelerator.device)
            trained, encoded = prepare(model, raw, draws)
            with run.autocast():
                result = objective(trained, reference, encoded, draws)
            meter.add(result.metrics)
            meter.add_number("loss", result.loss)
        policy.train()
        return {f"validation/{name}": value for name, value in meter.read().items()}
