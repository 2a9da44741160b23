"""The weights of the step at which held-out pairs were judged best: a run's result, where they are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.core.sharding import gather_tensor, split_like
from diffpo.storage.digests import read_json
from diffpo.storage.ledger import write_json

BEST = "best.json"
OF_VALIDATION = "validation/"


@dataclass(frozen=True)
class KeepBest:
    """The result of a run is the weights of its best judgement, in the place of the last ones.

    Args:
        metric: what is compared, as `metrics.jsonl` calls it after `validation/`, e.g. loss or rewards/accuracies.
        better: whether higher or lower numbers of it are better. Of equal ones the first stays.
        patience: judgements without a better one after which training ends; null trains all steps.

    Raises:
        Refusal: if the patience is not positive.
    """

    metric: str
    better: Literal["higher", "lower"]
    patience: int | None = None

    def __post_init__(self):
        require_at_least(1, **{"validation.keep_best.patience": self.patience})

    def require_known(self, names: Sequence[str]) -> None:
        """Raise a Refusal if a validation does not tell this metric."""
        if self.metric in names:
            return
        close = get_close_matches(self.metric.removeprefix(OF_VALIDATION), names, n=3) or sorted(names)
        raise Refusal(
            f"validation.keep_best.metric {self.metric} is nothing that this validation tells; it has "
            f"{', '.join(close)}{' and others' if len(close) < len(names) else ''}."
        )


class Best:
    """Judgements so far, and the best one's weights; a checkpoint holds it whole.

    The main process decides for all, so that none of them goes on when others end.

    Attributes:
        step: of the best judgement; 0 if there is none yet.
        value: what it was.
        judged: how many judgements there were.
        since: how many of them came after the best.
    """

    def __init__(self, config: KeepBest, parameters: Sequence[nn.Parameter]):
        self.config, self.parameters = config, parameters
        self.step, self.value, self.judged, self.since = 0, 0.0, 0, 0
        self.weights: list[Tensor] = []

    @property
    def name(self) -> str:
        return OF_VALIDATION + self.config.metric

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.config.patience is not None and self.since >= self.config.patience

    def hear(self, step: int, judged: Mapping[str, float]) -> None:
        """Compare the weights as they are now; every process has to call it. What is not finite is no best."""
        [value] = broadcast_object_list([judged.get(self.name)])
        self.judged, self.since = self.judged + 1, self.since + 1
        if value is None or not isfinite(value):
            return
        sign = 1 if self.config.better == "higher" else -1
        if not self.step or sign * value > sign * self.value:
            self.step, self.value, self.since = step, value, 0
            self.weights = [copy_aside(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def take(self, last: int, accelerator: Accelerator, folder: Path) -> None:
        """Put the best weights in the place of the last ones, and say so; `best.json` keeps it.

        Args:
            last: the last step that was trained.
        """
        if not self.step:
            accelerator.print(f"{self.name} was finite in none of {self.judged} judgements: the last weights stay.")
            return
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            parameter.copy_(weight)
        accelerator.print(f"The result is the weights {describe_best(self.found(last))}.")
        if accelerator.is_main_process:
            write_best(folder, self.found(last))

    def found(self, last: int) -> dict[str, Any]:
        """What `best.json` says."""
        return {
            "step": self.step,
            "metric": self.name,
            "better": self.config.better,
            "value": self.value,
            "judged": self.judged,
            "last_step": last,
        }

    def state_dict(self) -> dict[str, Any]:
        """All processes have to call it."""
        counts = {"step": self.step, "value": self.value, "judged": self.judged, "since": self.since}
        return counts | {"weights": [gather_tensor(weight) for weight in self.weights]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.value = state_dict["step"], state_dict["value"]
        self.judged, self.since = state_dict["judged"], state_dict["since"]
        whole = state_dict["weights"]
        self.weights = [split_like(*both) for both in zip(whole, self.parameters, strict=True)] if whole else []


def copy_aside(parameter: nn.Parameter) -> Tensor:
    """A copy, off the accelerator where it is whole."""
    kept = parameter.detach()
    return kept.clone() if isinstance(kept, DTensor) else kept.to("cpu", copy=True)


def describe_best(found: Mapping[str, Any]) -> str:
    """Which weights a run's result is, after "the weights"."""
    return (
        f"of step {found['step']}, where {found['metric']} was {found['value']:.4g}, the best of "
        f"{found['judged']} judgements ({found['better']} is better); training ended at step {found['last_step']}"
    )


def write_best(folder: Path, found: Mapping[str, Any] | None) -> None:
    """Leave `best.json` in the folder of a run; None removes what a former run has left."""
    if found is None:
        (folder / BEST).unlink(missing_ok=True)
    else:
        write_json(folder / BEST, found)


def read_best(folder: Path) -> dict[str, Any] | None:
    """What `best.json` says; None if the run kept its last weights.

    Raises:
        Refusal: if it is damaged.
    """
    return read_json(folder / BEST) if (folder / BEST).exists() else None
