"""Checkpoints that are whole or absent, and runs that resume where they stood."""

import logging
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diffpo.files import remedy_of
from diffpo.refusal import Refusal
from diffpo.sharding import split_like, whole_state

WEIGHTS = "trainable.safetensors"
CONFIG = "config.yaml"
MAY_DIFFER = (
    "output_dir",
    "resume",
    "fit.steps",
    "fit.epochs",
    "fit.log_every",
    "fit.save_every",
    "fit.keep",
    "fit.per_device_batch_size",
    "preview.every",
    "validation.every",
    "publish",
    "data.workers",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: folders `checkpoint-000123` that hold the state after optimiser step 123.

    A checkpoint is written to `partial` and renamed when every rank has finished, so a kill at any moment leaves whole
    checkpoints and perhaps a `partial`, which nothing ever reads. Of the policy only trainable tensors are stored,
    whole; under FSDP2 and DeepSpeed accelerate adds all of it once more, in their own formats.

    Attributes:
        keep: how many of the newest stay.
        config: the resolved config as YAML, stored beside each checkpoint and compared on resume.
    """

    accelerator: Accelerator
    root: Path
    keep: int
    config: str

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first; half-written ones are skipped with a warning."""
        for folder in [*sorted(self.root.glob("checkpoint-*")), self.root / "partial"]:
            if folder.exists() and not (folder / CONFIG).exists():
                log.warning(f"{folder} is half-written (a save was interrupted); it is skipped.")
        return self._whole()

    def _whole(self) -> list[Path]:
        return sorted((file.parent for file in self.root.glob(f"checkpoint-*/{CONFIG}")), key=step_of)

    def save(self, step: int) -> None:
        """Write the state after `step` on all ranks, then drop the oldest checkpoints.

        Raises:
            Refusal: if a rank could not write, e.g. because the disk is full; earlier checkpoints stay.
        """
        final = self.root / f"checkpoint-{step:06d}"
        if (final / CONFIG).exists():
            return
        partial, main = self.root / "partial", self.accelerator.is_main_process
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        problem, cause = "", None
        try:
            self.accelerator.save_state(str(partial))
            if main:
                (partial / CONFIG).write_text(self.config)
        # torch.save reports a full disk as RuntimeError, safetensors as its own error.
        except (OSError, RuntimeError, SafetensorError) as error:
            problem, cause = f"{type(error).__name__}: {error}", error
        failed = self.accelerator.reduce(torch.tensor(float(bool(problem)), device=self.accelerator.device))
        if failed:
            if main:
                shutil.rmtree(partial, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            free = shutil.disk_usage(self.root).free / 2**30
            raise Refusal(
                f"Checkpoint {step} could not be written ({problem or 'on another process'}; {free:.2f} GiB are "
                f"free). {self.last()} {remedy_of(cause, 'Free some space or lower fit.keep')}; then continue with "
                "--resume latest."
            )
        if main:
            flush(partial)
            shutil.rmtree(final, ignore_errors=True)  # a half-written one
            partial.rename(final)
            for old in self._whole()[: -self.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def last(self) -> str:
        """For error messages: where the run can be taken up again."""
        found = self.found()
        return f"{found[-1]} is intact." if found else "There is no earlier checkpoint."

    def resume(self, which: str) -> int:
        """Load the chosen checkpoint and return its step; 0 if there is none to load yet."""
        folder = self.chosen(which)
        if folder is None:
            log.info(f"{self.root} holds no checkpoint yet; the run starts at step 0.")
            return 0
        try:
            self.accelerator.load_state(str(folder))
        # What is cut short is one of the last three to safetensors, torch and pickle.
        except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            others = [whole.name for whole in self._whole() if whole.name != folder.name]
            before = f"delete it and resume {others[-1]}" if others else "there is no other one; delete it"
            raise Refusal(
                f"{folder} is damaged ({' '.join(str(error).split())[:200]}); {before}, or start anew in another "
                "output_dir."
            ) from error
        return step_of(folder)

    def chosen(self, which: str) -> Path | None:
        """The checkpoint to resume: `latest`, or the one at a path; None if there is none yet.

        Raises:
            Refusal: if the path is no whole checkpoint, there are later ones, which the run would write once more,
                or a setting that shapes the run has changed.
        """
        if which == "latest":
            found = self.found()
            if not found:
                return None
            folder = found[-1]
        else:
            folder = Path(which)
            if not (folder.name.startswith("checkpoint-") and (folder / CONFIG).exists()):
                raise Refusal(
                    f"{folder} is not a whole checkpoint; name a folder checkpoint-N, or use --resume latest."
                )
        if later := [whole.name for whole in self._whole() if step_of(whole) > step_of(folder)]:
            raise Refusal(
                f"{self.root} holds later checkpoints than {folder} ({', '.join(later)}); delete or move them, or "
                "choose another --output_dir."
            )
        self._require_same(folder)
        return folder

    def _require_same(self, folder: Path) -> None:
        then, now = flat(yaml.safe_load((folder / CONFIG).read_text())), flat(yaml.safe_load(self.config))
        changed = sorted(
            key
            for key in then.keys() | now.keys()
            if then.get(key) != now.get(key)
            and not any(key == free or key.startswith(free + ".") for free in MAY_DIFFER)
        )
        if changed:
            values = "; ".join(f"{key} was {then.get(key)!r}, now {now.get(key)!r}" for key in changed)
            raise Refusal(
                f"{folder} belongs to another run: {values}. Restore these, or start anew in another output_dir; only "
                f"{', '.join(MAY_DIFFER)} and the number of processes may change."
            )

    def require_fresh(self) -> None:
        """Refuse to start over in a folder that already holds a run.

        Raises:
            Refusal: if there are checkpoints or results.
        """
        held = [*self.root.glob("checkpoint-*"), *self.root.glob("*.safetensors"), *self.root.glob("unet")]
        if held:
            raise Refusal(
                f"{self.root} already holds {held[0].name}; continue that run with --resume latest, or choose another "
                "--output_dir."
            )


def store_trainable(accelerator: Accelerator, policy: nn.Module) -> None:
    """Make `save_state` store the policy's trainable tensors only, and `load_state` insist on exactly these.

    With LoRA that is kilobytes instead of the whole base. Neither names nor tensors depend on the number of processes,
    nor on whether the policy is sharded over them.
    """

    def trainable() -> list[str]:
        return [name for name, p in policy.named_parameters() if p.requires_grad]

    def save(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        weights.clear()
        state = whole_state(policy, trainable(), keep=accelerator.is_main_process)
        if accelerator.is_main_process:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, Path(folder) / WEIGHTS)

    def load(models: list[nn.Module], folder: str) -> None:
        models.clear()
        stored, wanted = load_file(Path(folder) / WEIGHTS), trainable()
        if odd := sorted(stored.keys() ^ set(wanted)):
            raise Refusal(f"{folder} trains other weights than this run ({len(odd)} names differ, first {odd[0]}).")
        state = policy.state_dict()
        for name in wanted:
            state[name].copy_(split_like(stored[name], state[name]))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists count as values."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: value
        for name, branch in tree.items()
        for key, value in flat(branch, f"{prefix}.{name}".strip(".")).items()
    }


def flush(folder: Path) -> None:
    """Wait until the disk holds every file, so that a power cut after the rename finds them whole."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
