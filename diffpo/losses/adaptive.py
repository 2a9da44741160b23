"""A beta that follows the size of margins, which differ a hundredfold between models, spaces and stages of a run."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.moving import Moving, RunningMean
from diffpo.core.needs import PAIR, Candidates, Need
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal
from diffpo.losses.combined import Wrapper, needs_comparison
from diffpo.losses.logistic import Sigmoid


@dataclass(frozen=True)
class AutoBeta(Wrapper, Moving):
    """Any loss of pairs, with a beta by which a pair of typical margin has sigmoid(-beta margin) = typical.

    beta = -logit(typical) / mean |margin|, between `low` and `high`; the mean runs over all pairs of a step, and over
    steps with `decay` (auto-beta of github.com/bghira/SimpleTuner, whose mean starts anew when a run is resumed; here
    a checkpoint holds it). Where policy and reference begin as one, margins are zero: so `high` is the first beta.
    Later neither the space of errors nor their scale decides how strong the gradient is. It controls how fast margins
    grow, not whose error moves: `diffpo.diffusion.Guard` stays of use.

    Args:
        high: the largest beta, and the first one.
        inner: the loss; log-ratios are scaled so that its own beta, whatever it is, becomes this one.
        low: the smallest beta.
        typical: 0.2 in SimpleTuner.
        decay: of the running mean; 0.99 in SimpleTuner.

    Raises:
        Refusal: if `typical` is not in (0, 0.5), `decay` not in [0, 1), or not 0 <= low <= high with a positive high.
    """

    high: float = field(kw_only=True)
    inner: PairLoss = field(default_factory=Sigmoid)
    low: float = 0.0
    typical: float = 0.2
    decay: float = 0.99

    def __post_init__(self):
        if not 0 < self.typical < 0.5:
            raise Refusal(f"AutoBeta needs a typical in (0, 0.5), got {self.typical}; SimpleTuner takes 0.2.")
        if not 0 <= self.decay < 1:
            raise Refusal(f"AutoBeta needs a decay in [0, 1), got {self.decay}; SimpleTuner takes 0.99.")
        if not (0 <= self.low <= self.high and self.high > 0):
            raise Refusal(
                f"AutoBeta needs 0 <= low <= high and a positive high, got {self.low} and {self.high}; the fixed beta "
                "of a recipe is a good high."
            )

    @cached_property
    def size(self) -> RunningMean:
        """Of margins."""
        return RunningMean(self.decay)

    @property
    def beta(self) -> float | Float[Tensor, ""]:  # type: ignore[override]
        if self.size.value is None:
            return self.high
        return (log(1 / self.typical - 1) / self.size.value).clamp(min=self.low, max=self.high)

    @property
    def moving(self) -> tuple[Moving, ...]:
        return (self, *self.inner.moving)

    @property
    def needs_candidates(self) -> Candidates:
        return PAIR

    @property
    def needs(self) -> tuple[Need, ...]:
        return (needs_comparison(self), *self.inner.needs)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        if pair.margin.requires_grad:  # held-out pairs are not heard
            self.size.hear(pair.margin.abs())
        scale = self.beta / self.inner.beta
        return self.inner(replace(pair, policy=scale * pair.policy, reference=scale * pair.reference), label)

    @property
    def curves(self) -> dict[str, Float[Tensor, ""]]:
        return {"beta": torch.as_tensor(self.beta, dtype=torch.float32)}

    def after_step(self, add: Callable[[Tensor], Any]) -> None:
        self.size.after_step(add)

    def forget(self) -> None:
        self.size.forget()

    def state_dict(self) -> dict[str, Any]:
        return self.size.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size.load_state_dict(state)
