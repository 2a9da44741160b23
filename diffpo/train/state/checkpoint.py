"""Checkpoints that are whole or absent, and runs that resume where they stood."""

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from safetensors import SafetensorError

from diffpo.cli.moved import rename_moved
from diffpo.core.refusal import Refusal
from diffpo.processes.everyone import on_main
from diffpo.storage.digests import (
    FILES,
    NETWORKS,
    digest_files,
    flush_file,
    found_in,
    name_files,
    named_in,
    wrong_file,
    wrong_size,
)
from diffpo.storage.files import CONFIG, in_one_line, remedy_of
from diffpo.train.state.training_state import TrainingState

DATA = "data.json"
TOLD = 8  # differences that one line tells
NAME = re.compile(r"checkpoint-(\d{6}|[1-9]\d{6,})")
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
    "validation.keep_best.patience",
    "publish",
    "data.workers",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: folders `checkpoint-000123` that hold the state after optimiser step 123.

    A checkpoint is written to `partial` and renamed when every rank has finished and the disk holds it, so a kill at
    any moment leaves whole checkpoints and perhaps a `partial`, which nothing ever reads. What is in them says
    `diffpo.train.state.training_state`. `files.json` names all files with their digests, which are compared before one
    is read.

    Attributes:
        keep: how many of the newest stay.
        config: the resolved config as YAML, stored beside each checkpoint and compared on resume.
        data: what tells the data of the run from others, see `diffpo.data.pairs.Pairs.fingerprint`; stored and
            compared, too. Null is not known: the main process alone has to know it.
        state: what is saved and resumed. Null saves nothing but config and data.
    """

    accelerator: Accelerator
    root: Path
    keep: int
    config: str
    data: Mapping[str, Any] | None = None
    state: TrainingState | None = None

    def at(self, step: int) -> Path:
        return self.root / f"checkpoint-{step:06d}"

    def found(self) -> list[Path]:
        """Checkpoints, oldest first; half-written ones are skipped with a warning, all that is no such folder without
        one."""
        for folder in [*list_checkpoints(self.root), self.root / "partial"]:
            if folder.exists() and not is_whole(folder):
                log.warning(f"{folder} is half-written (a save was interrupted); it is skipped.")
        return self._whole()

    def _whole(self) -> list[Path]:
        return [folder for folder in list_checkpoints(self.root) if is_whole(folder)]

    @property
    def bytes(self) -> int:
        """Of all checkpoints that are there."""
        return sum((folder / name).stat().st_size for folder in self._whole() for name in found_in(folder))

    def save(self, step: int) -> None:
        """Write the state after `step` on all ranks, then drop the oldest checkpoints.

        Raises:
            Refusal: if a rank could not write, e.g. because the disk is full; earlier checkpoints stay.
        """
        final = self.at(step)
        if is_whole(final):
            return
        partial, main = self.root / "partial", self.accelerator.is_main_process
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._written(step):
            partial.mkdir(parents=True, exist_ok=True)
            if self.state is not None:
                self.state.save(partial)
        with self._written(step):
            if main:
                (partial / CONFIG).write_text(self.config)
                if self.data is not None:
                    (partial / DATA).write_text(json.dumps(self.data, indent=2) + "\n")
                name_files(partial, {"step": step})
                shutil.rmtree(final, ignore_errors=True)  # a half-written one
                partial.rename(final)
                flush_file(self.root)
        for old in self._whole()[: -self.keep] if main else ():
            old.rename(partial)  # at once: what a kill leaves of it is no checkpoint
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def save_last(self, step: int) -> None:
        """The same after the last step: that it cannot be written is only told, for the result is still to come."""
        try:
            self.save(step)
        except Refusal as refused:
            if self.accelerator.is_main_process:
                log.warning(f"{refused} All steps are done, and the run goes on to its result.")

    @contextmanager
    def _written(self, step: int) -> Iterator[None]:
        """Something that any rank may fail to write."""
        problem, cause = "", None
        try:
            yield
        # DeepSpeed reports a full disk as RuntimeError, safetensors as its own error; a refusal is about the state.
        except (OSError, RuntimeError, SafetensorError, Refusal) as error:
            problem, cause = f"{type(error).__name__}: {error}", error
        failed = self.accelerator.reduce(torch.tensor(float(bool(problem)), device=self.accelerator.device))
        if failed:
            if self.accelerator.is_main_process:
                shutil.rmtree(self.root / "partial", ignore_errors=True)
            self.accelerator.wait_for_everyone()
            if isinstance(cause, Refusal):
                raise cause
            free = shutil.disk_usage(self.root).free / 2**30
            raise Refusal(
                f"Checkpoint {step} could not be written ({problem or 'on another process'}; {free:.2f} GiB are "
                f"free). {self.last()} {remedy_of(cause, 'Free some space or lower fit.keep')}; then continue with "
                "--resume latest."
            )

    def last(self) -> str:
        """For error messages: where the run can be taken up again."""
        found = self.found()
        return f"{found[-1]} is intact." if found else "There is no earlier checkpoint."

    def resume(self, which: str) -> int:
        """Load the chosen checkpoint and return its step; 0 if there is none to load yet.

        Raises:
            Refusal: what `chosen` refuses, if a file is not what was written, or the data have changed since.
        """
        folder = self.chosen(which)
        if self.accelerator.is_main_process:
            shutil.rmtree(self.root / "partial", ignore_errors=True)  # after the last checkpoint no save would do it
        if folder is None:
            log.info(f"{self.root} holds no checkpoint yet; the run starts at step 0.")
            return 0
        on_main(lambda: self._require_intact(folder))
        assert self.state is not None
        try:
            self.state.load(folder)
        except Refusal:
            raise
        # What is cut short, or was written by nobody, fails as safetensors, JSON, or what both should hold.
        except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise Refusal(self._damaged(folder, in_one_line(error))) from error
        # Accelerate would go on counting micro-batches, of which a step may have had another number then.
        self.accelerator.step = 0
        return step_of(folder)

    def chosen(self, which: str) -> Path | None:
        """The checkpoint to resume: `latest`, or the one at a path; None if there is none yet.

        Raises:
            Refusal: if the path is no whole checkpoint, there are later ones, which the run would write once more,
                files are missing or too many, or a setting that shapes the run has changed.
        """
        if which == "latest":
            found = self.found()
            if not found:
                return None
            folder = found[-1]
        else:
            folder = Path(which)
            if not (NAME.fullmatch(folder.name) and is_whole(folder)):
                raise Refusal(
                    f"{folder} is not a whole checkpoint; name a folder checkpoint-N, or use --resume latest."
                )
        if later := [whole.name for whole in self._whole() if step_of(whole) > step_of(folder)]:
            raise Refusal(
                f"{self.root} holds later checkpoints than {folder} ({', '.join(later)}); delete or move them, or "
                "choose another --output_dir."
            )
        if wrong := wrong_at_sight(folder):
            raise Refusal(self._damaged(folder, wrong))
        self._require_same(folder)
        return folder

    def _require_intact(self, folder: Path) -> None:
        if wrong := wrong_in(folder):
            raise Refusal(self._damaged(folder, wrong))
        if not (folder / FILES).exists():
            log.warning(f"{folder} has no {FILES} to compare it with: it is old, or lost it. It is taken as it is.")
        if self.data is None or not (folder / DATA).exists():
            return
        try:
            then = json.loads((folder / DATA).read_bytes())
        except ValueError as error:
            raise Refusal(self._damaged(folder, f"{DATA} is no JSON")) from error
        if changed := find_differences(flatten_tree(then), flatten_tree(self.data)):
            raise Refusal(
                f"The data have changed since {folder} was written: {changed}. Restore them, or start anew in another "
                "output_dir."
            )

    def _damaged(self, folder: Path, wrong: str) -> str:
        others = [other.name for other in self._whole() if other.name != folder.name and not wrong_in(other)]
        before = f"delete it and resume {others[-1]}" if others else "there is no other one; delete it"
        return f"{folder} is damaged ({wrong}); {before}, or start anew in another output_dir."

    def _require_same(self, folder: Path) -> None:
        try:
            then, now = shaping_settings((folder / CONFIG).read_text()), shaping_settings(self.config)
        except (ValueError, yaml.YAMLError) as error:
            raise Refusal(self._damaged(folder, f"{CONFIG} is no config")) from error
        if changed := find_differences(then, now):
            raise Refusal(
                f"{folder} belongs to another run: {changed}. Restore these, or start anew in another output_dir; "
                f"only {', '.join(MAY_DIFFER)} and the number of processes may change."
            )

    def require_fresh(self) -> None:
        """Refuse to start over in a folder that already holds a run.

        Raises:
            Refusal: if there are checkpoints or results.
        """
        held = [*self.root.glob("checkpoint-*"), *self.root.glob("*.safetensors")]
        held += [folder for name in NETWORKS for folder in self.root.glob(name)]
        if held:
            raise Refusal(
                f"{self.root} already holds {held[0].name}; continue that run with --resume latest, or choose another "
                "--output_dir."
            )


def list_checkpoints(root: Path) -> list[Path]:
    """What may be checkpoints, oldest first: folders with just such a name, no links to others, no copies."""
    found = [path for path in root.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=step_of)


def is_whole(folder: Path) -> bool:
    """Whether a save came to its end here."""
    return (folder / FILES).exists() or (folder / CONFIG).exists()


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def wrong_at_sight(folder: Path) -> str:
    """What is wrong with a checkpoint, as far as names, sizes and its config tell; empty if nothing is."""
    try:
        said = named_in(folder)
        if said is None:
            return (
                "" if isinstance(yaml.safe_load((folder / CONFIG).read_text()), dict | None) else f"{CONFIG} is none"
            )
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"what it says of itself cannot be read: {' '.join(str(error).split())[:200]}"
    if said.get("step") != step_of(folder):
        return f"it was written as step {said.get('step')}, and has another name now"
    files: dict[str, Any] = said["files"]
    if more := sorted({*found_in(folder)} - files.keys()):
        return f"{more[0]} is none of its files: move that away"
    if CONFIG not in files:
        return f"{FILES} does not name {CONFIG}"
    wrong = (wrong_size(folder, name, entry) for name, entry in files.items())
    return next(filter(None, wrong), "") or wrong_file(folder, CONFIG, files[CONFIG])


def wrong_in(folder: Path) -> str:
    """What is wrong with a checkpoint: all of it is read. Empty if nothing is."""
    if wrong := wrong_at_sight(folder):
        return wrong
    said = named_in(folder)
    files: dict[str, Any] = said["files"] if said else {}
    found = digest_files(folder, files)
    return next((f"{name} is not what was written" for name in files if found[name] != files[name]), "")


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what two flat mappings differ, in words."""
    changed = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    more = f"; and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
    return "; ".join(f"{key} was {then.get(key)!r}, now {now.get(key)!r}" for key in changed[:TOLD]) + more


def shaping_settings(config: str) -> dict[str, Any]:
    """Settings that shape a run, flat."""
    found = flatten_tree(rename_moved(yaml.safe_load(config)))
    free = tuple(f"{name}." for name in MAY_DIFFER)
    return {key: value for key, value in found.items() if not f"{key}.".startswith(free)}


def flatten_tree(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists count as values."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: value
        for name, branch in tree.items()
        for key, value in flatten_tree(branch, f"{prefix}.{name}".strip(".")).items()
    }
