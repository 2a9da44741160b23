"""One run: its folder, its processes and what it is told to do."""

import json
import logging
import math
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.processes.everyone import on_main
from diffpo.processes.launchers import autocast_type, require_joined, suit_launcher
from diffpo.storage.files import CONFIG, name_failed_writes, remedy_of
from diffpo.storage.lock import Lock, take_lock
from diffpo.train.metrics import require_trackers
from diffpo.train.state.checkpoint import Checkpoints, flatten_tree, list_checkpoints

log = logging.getLogger(__name__)

METRICS, TRAINING = "metrics.jsonl", "training"


@dataclass(frozen=True)
class FitConfig:
    """Length, batch, precision and bookkeeping of one run.

    Args:
        steps: optimiser steps.
        epochs: the same in passes over the data, which need not be whole; give one of the two.
        batch_size: pairs per optimiser step over all processes; how often gradients are accumulated follows from it,
            so a run means the same on one GPU and on sixteen.
        per_device_batch_size: pairs per forward pass on one device.
        schedule: a schedule of diffusers.optimization.get_scheduler.
        warmup: optimiser steps over which the learning rate rises.
        max_grad_norm: the global gradient norm is clipped to this.
        mixed_precision: null takes what `accelerate launch` was told. Errors are computed in fp32 in any case.
        ema: decay of the moving average of the weights, which is then what is exported; null is none.
        log_every: optimiser steps between reads of the metrics.
        save_every: optimiser steps between checkpoints (one more at the end); null writes none.
        keep: newest checkpoints that stay.
        report_to: trackers of accelerate: tensorboard, wandb, trackio, ... Files that are this run's alone lie in
            output_dir.

    Raises:
        Refusal: if a number is out of its range, not exactly one of steps and epochs is given, or `ema` is no decay.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    per_device_batch_size: int = 4
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"] = (
        "constant_with_warmup"
    )
    warmup: int = 0
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    ema: float | None = None
    log_every: int = 10
    save_every: int | None = 500
    keep: int = 2
    report_to: list[str] = field(default_factory=list)

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            raise Refusal(f"fit needs steps or epochs, got {self.steps} and {self.epochs}; set the other to null.")
        if (self.steps or self.epochs or 0) < 0:
            raise Refusal(f"fit.steps and fit.epochs count from 0, got {self.steps or self.epochs}.")
        counts = {
            "batch_size": self.batch_size,
            "per_device_batch_size": self.per_device_batch_size,
            "log_every": self.log_every,
            "save_every": self.save_every,
            "keep": self.keep,
        }
        for name, count in counts.items():
            require_at_least(1, **{f"fit.{name}": count})
        require_at_least(0, **{"fit.warmup": self.warmup})
        if not self.max_grad_norm > 0:
            raise Refusal(f"fit.max_grad_norm is positive, got {self.max_grad_norm}; inf clips nothing.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise Refusal(f"fit.ema is a decay in [0, 1), got {self.ema}; null is none.")

    def steps_on(self, size: int | None) -> int:
        """Optimiser steps of the run.

        Args:
            size: pairs in an epoch; None if a stream holds them.

        Raises:
            Refusal: if epochs of a stream are asked for.
        """
        if self.steps is not None:
            return self.steps
        if size is None:
            raise Refusal("A stream does not know how long an epoch is; set fit.steps instead of fit.epochs.")
        return math.ceil((self.epochs or 0) * size / self.batch_size)


@dataclass(frozen=True, eq=False)
class Run:
    """An open run; see `open_run`.

    Attributes:
        settings: the resolved config as YAML; empty when a run is started from Python.
        resume: "latest", the path of a checkpoint, or None for a fresh run.
        storage: type in which frozen weights may be kept: that of mixed precision.
        lock: keeps other programs from the folder as long as the run lives; the main process has it.
    """

    config: FitConfig
    output_dir: Path
    seed: int
    resume: str | None
    settings: str
    accelerator: Accelerator
    storage: torch.dtype
    lock: Lock | None = None

    def autocast(self) -> torch.autocast:
        """Mixed precision for policy and reference alike; accelerate's own is none under DeepSpeed."""
        return torch.autocast(self.accelerator.device.type, self.storage, enabled=self.storage != torch.float32)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.accelerator, self.output_dir, self.config.keep, self.settings)

    def require_begun_or_new(self) -> None:
        """Raise a Refusal if the folder holds a run that is not resumed, or `resume` names a checkpoint of another."""
        if self.resume is None:
            self.checkpoints.require_fresh()
        else:
            self.checkpoints.chosen(self.resume)

    def begin(self) -> None:
        """Write the config, when nothing can be refused any more; every process has to call this.

        Raises:
            Refusal: if it cannot be written.
        """
        if self.accelerator.is_main_process:
            with name_failed_writes(str(self.output_dir / CONFIG), "the same command then goes on"):
                (self.output_dir / CONFIG).write_text(self.settings)

    def log(self, metrics: dict[str, float], step: int, is_last: bool = False) -> None:
        """Hand metrics to the trackers and add them to `metrics.jsonl`, where a resumed run repeats some steps.

        Args:
            is_last: whether nothing is trained any more, so that a failure is only told.

        Raises:
            Refusal: if they cannot be written, e.g. because the disk is full.
        """
        try:
            self.accelerator.log(metrics, step=step)
            if self.accelerator.is_main_process:
                add_line(self.output_dir / METRICS, json.dumps({"step": step} | metrics))
        except OSError as error:
            said = f"The metrics of step {step} could not be written ({error})."
            if not is_last:
                raise Refusal(
                    f"{said} {self.checkpoints.last()} {remedy_of(error)}; then continue with --resume latest."
                ) from error
            log.warning(f"{said} They are lost; all steps are done, and the run goes on.")


def open_run(
    config: FitConfig, output_dir: Path | str, seed: int = 0, resume: str | None = None, settings: str = ""
) -> Run:
    """Start processes and trackers, and refuse early what would fail late.

    Raises:
        Refusal: if the folder already holds a run that is not resumed, or files of others; another program is at work
            there; `resume` names a checkpoint of another run; the batch does not divide over the processes; a tracker
            is unknown or not installed; the seed is negative; or the launcher is not supported or started processes
            that do not know of one another.
    """
    output_dir = Path(output_dir)
    require_at_least(0, seed=seed)
    require_trackers(config.report_to)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # The order of pairs is endless; without this accelerate would make a short step at each end of a loader.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        log_with=[*config.report_to] or None,
        project_dir=output_dir,
    )
    require_joined(accelerator.num_processes)
    accelerator.gradient_accumulation_steps = count_accumulated(config, accelerator.num_processes)
    run = Run(config, output_dir, seed, resume, settings, accelerator, storage=autocast_type(accelerator))
    suit_launcher(accelerator, config.per_device_batch_size, config.max_grad_norm)
    if not output_dir.exists():
        run.require_begun_or_new()  # nothing is made for a run that is refused
    run = replace(
        run, lock=on_main(lambda: take_lock(output_dir, TRAINING, lambda names: list_checkpoints(output_dir)))
    )
    run.require_begun_or_new()  # of a folder that no other program is changing
    if config.report_to:
        values = flatten_tree(yaml.safe_load(settings) or {})
        accelerator.init_trackers(
            "diffpo",
            {key: v if isinstance(v, int | float) else str(v) for key, v in values.items()},
            init_kwargs=keep_inside(output_dir),
        )
    return run


def keep_inside(folder: Path) -> dict[str, dict[str, str]]:
    """Options of trackers that write to the current folder otherwise. TensorBoard and Aim are told by accelerate;
    trackio and MLflow keep one store for all runs, where their own settings say."""
    return {
        "wandb": {"dir": str(folder)},
        "dvclive": {"dir": str(folder / "dvclive")},
        "swanlab": {"logdir": str(folder / "swanlog")},
    }


def count_accumulated(config: FitConfig, processes: int) -> int:
    """Forward passes of each process per optimiser step.

    Raises:
        Refusal: if the batch does not divide over the processes.
    """
    together = config.per_device_batch_size * processes
    if config.batch_size % together:
        raise Refusal(
            f"fit.batch_size {config.batch_size} is not a multiple of {processes} processes x "
            f"fit.per_device_batch_size {config.per_device_batch_size}; change one of the two sizes."
        )
    return config.batch_size // together


def add_line(file: Path, line: str) -> None:
    """Add a line to a file; of one that a full disk or a kill has cut, nothing stays."""
    with file.open("ab+", buffering=0) as lines:
        end = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, end - 1))
        if end and lines.read(1) != b"\n":
            lines.truncate(end := file.read_bytes().rfind(b"\n") + 1)
        left = f"{line}\n".encode()
        try:
            while left:
                left = left[lines.write(left) :]
        except OSError:
            with suppress(OSError):
                lines.truncate(end)
            raise


def count_copies(config: FitConfig, keeps_best: bool = False) -> int:
    """Of what is trained, in one checkpoint: weights, two moments, moving average, best; 0 if none are written."""
    return 3 + (config.ema is not None) + keeps_best if config.save_every else 0


def require_disk(output_dir: Path, needed: int, keep: int, result: int = 0, held: int = 0) -> None:
    """Refuse a run whose checkpoints or result cannot fit.

    Args:
        needed: bytes of one checkpoint; 0 if none are written.
        result: bytes of what is exported at the end.
        held: bytes of checkpoints of the run that are there already and will make room for others.

    Raises:
        Refusal: if `keep` checkpoints, the one being written and the result do not fit on the disk.
    """
    free = shutil.disk_usage(output_dir).free
    total = needed * (keep + 1) - min(held, needed * keep) + result
    if total > free:
        what = f"{keep + 1} checkpoints of {needed / 2**30:.2f} GiB do not" if needed else "What is trained does not"
        raise Refusal(
            f"{what} fit on the disk of {output_dir} ({free / 2**30:.2f} GiB free); {total / 2**30:.2f} GiB are "
            "needed, the result included: free some space, lower fit.keep, or choose another output_dir."
        )
