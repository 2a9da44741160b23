"""What a run says while it goes on: metrics in files and trackers, the bar, warnings."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.train.metrics import Meter, Watch
from diffpo.train.run import Run


class Progress:
    """Metrics of a run since they were last read; every process has to call all of this alike.

    Attributes:
        meter: what is read.
    """

    def __init__(self, run: Run, bar: tqdm, step: int):
        self.run, self.bar = run, bar
        self.meter, self._watch = Meter(run.accelerator), Watch()
        self._began, self._last = time.perf_counter(), step

    def read(self, step: int, lr: float, is_last: bool = False) -> None:
        """Log what was measured up to `step`, once.

        Raises:
            Refusal: if loss or gradient is not finite.
            Refusal: if it cannot be written and this is not the last step.
        """
        if step == self._last:
            return
        metrics = self.meter.read()
        require_steady(metrics, step, self.run)
        now = time.perf_counter()
        speed = (step - self._last) * self.run.config.batch_size / (now - self._began)
        metrics |= {"lr": lr} | {"pairs_per_second": speed}
        self._began, self._last = now, step
        self.run.log(metrics, step, is_last)
        self.bar.set_postfix_str(summary(metrics))
        for warning in self._watch(metrics):
            self.say(f"step {step}: {warning}")

    def held_out(self, step: int, judged: dict[str, float], is_last: bool = False) -> None:
        """Log what a validation has found.

        Raises:
            Refusal: if it cannot be written and this is not the last step.
        """
        self.run.log(judged, step, is_last)
        self.say(f"step {step}: {of_held_out(judged)}")
        for warning in self._watch.held_out(judged):
            self.say(f"step {step}: {warning}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count: pairs_per_second is the speed of training alone."""
        paused = time.perf_counter()
        yield
        self._began += time.perf_counter() - paused

    def say(self, text: str) -> None:
        """Once, above the bar: tqdm writes also where the bar is switched off."""
        if not self.bar.disable:
            self.bar.write(text)


def require_steady(metrics: dict[str, float], step: int, run: Run) -> None:
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics.get(name, 0.0))]
    if bad:
        raise Refusal(
            f"{' and '.join(bad)} stopped being finite within the {run.config.log_every} steps before {step}. "
            f"{run.checkpoints.last()} Lower the learning rate, use bf16 or no mixed precision instead of fp16, or "
            "switch the guard on; then start anew or resume."
        )


def summary(metrics: dict[str, float]) -> str:
    short = {"loss": "loss", "rewards/accuracies": "acc", "lr": "lr", "pairs_per_second": "pairs/s"}
    return ", ".join(f"{label} {metrics[name]:.4g}" for name, label in short.items() if name in metrics)


def of_held_out(judged: dict[str, float]) -> str:
    names = ("loss", "rewards/accuracies", "rewards/margins", "mse/chosen_minus_reference")
    names += ("drawn_win_rate", "drawn_score")
    found = {name: judged[f"validation/{name}"] for name in names if f"validation/{name}" in judged}
    return "held-out pairs: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def tell_plan(run: Run, steps: int, size: int | None, parameters: list[nn.Parameter], lr: float) -> None:
    """Print what will really happen: batch and learning rate after everything that could scale them."""
    config, accelerator = run.config, run.accelerator
    epochs = f"{steps * config.batch_size / size:.2f} epochs of {size} pairs" if size else "from a stream"
    accelerator.print(
        f"{steps} steps of {config.batch_size} pairs ({accelerator.num_processes} processes x "
        f"{config.per_device_batch_size} x {accelerator.gradient_accumulation_steps} accumulated), {epochs}\n"
        f"learning rate {lr:g} ({config.schedule}, {config.warmup} warm-up steps), never scaled by the batch\n"
        f"{sum(p.numel() for p in parameters):,} trainable parameters, computed in "
        f"{str(run.storage).removeprefix('torch.')} on {accelerator.device}"
    )
