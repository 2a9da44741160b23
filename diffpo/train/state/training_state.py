"""What a run has to take up again besides its data: weights, optimizer, whatever moves with them, generators."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded, split_like, whole_state
from diffpo.train.state.trees import read_tree, write_tree

WEIGHTS = "trainable.safetensors"
OPTIMIZER, SCALER, RANDOM, DEEPSPEED = "optimizer", "scaler", "random", "deepspeed"
SHARDED = "optimizer-by-name"  # of parameters: what a sharded one gives when it is gathered


@runtime_checkable
class Stateful(Protocol):
    """Whatever a checkpoint has to hold, e.g. a schedule or a moving average."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Writes and reads the state of a run, as safetensors and JSON; all processes have to call each method.

    Of the policy only trainable tensors are stored, whole: with LoRA that is kilobytes instead of the whole base.
    Neither names nor tensors depend on the number of processes, nor on whether the policy is sharded over them.
    DeepSpeed alone keeps its optimizer in files of its own, which are pickles.

    Attributes:
        policy: as it is, not wrapped.
        model: the policy as wrapped for training.
        optimizer: as accelerate prepared it.
        others: what else has a state, by the names of the files.
    """

    accelerator: Accelerator
    policy: nn.Module
    model: Any = None
    optimizer: Any = None
    others: Mapping[str, Stateful] = field(default_factory=dict)

    @property
    def by_deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    @property
    def trained(self) -> list[str]:
        return [name for name, parameter in self.policy.named_parameters() if parameter.requires_grad]

    def save(self, folder: Path) -> None:
        """Write it. A process that fails to write goes on gathering, for which the others wait, and fails then.

        Raises:
            Refusal: if something has a state that cannot be stored.
            OSError, RuntimeError, SafetensorError: if a file cannot be written.
        """
        failures: list[Exception] = []

        def attempt(write: Callable[..., None], *arguments: Any) -> None:
            try:
                write(*arguments)
            except (OSError, RuntimeError, SafetensorError, Refusal) as error:
                failures.append(error)

        main = self.accelerator.is_main_process
        if self.by_deepspeed:
            self.model.save_checkpoint(str(folder), DEEPSPEED)
        weights = whole_state(self.policy, self.trained, keep=main)
        if main:
            attempt(save_file, {name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
        del weights
        for name, state in self._states():
            if main:
                attempt(write_tree, folder, name, state)
        attempt(write_tree, folder, self._generators, read_generators(self.accelerator.device))
        if failures:
            raise failures[0]

    def load(self, folder: Path) -> None:
        """Take up what was written.

        Raises:
            Refusal: if other weights were trained, or another launcher or an earlier version wrote it.
            OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError: if a file is damaged.
        """
        if self.by_deepspeed:
            self.model.load_checkpoint(str(folder), DEEPSPEED)
        self._load_weights(folder)
        if self.optimizer is not None and not self.by_deepspeed:
            self._load_optimizer(folder)
        for name, other in self.others.items():
            other.load_state_dict(read_tree(folder, name))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(read_tree(folder, SCALER))
        if (folder / f"{self._generators}.json").exists():  # or there were fewer processes
            restore_generators(read_tree(folder, self._generators), self.accelerator.device)

    @property
    def _generators(self) -> str:
        return f"{RANDOM}-{self.accelerator.process_index:05d}"

    def _states(self) -> Iterator[tuple[str, Any]]:
        """Whole on the main process, one after the other."""
        if self.optimizer is not None and not self.by_deepspeed:
            if is_sharded(self.policy):
                options = StateDictOptions(full_state_dict=True, cpu_offload=True)
                yield SHARDED, get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=options)
            else:
                yield OPTIMIZER, self.optimizer.state_dict()
        for name, other in self.others.items():
            yield name, other.state_dict()
        if self.accelerator.scaler is not None:
            yield SCALER, self.accelerator.scaler.state_dict()

    def _load_weights(self, folder: Path) -> None:
        stored, wanted = load_file(folder / WEIGHTS), self.trained
        if odd := sorted(stored.keys() ^ set(wanted)):
            raise Refusal(f"{folder} trains other weights than this run ({len(odd)} names differ, first {odd[0]}).")
        state = self.policy.state_dict()
        for name in wanted:
            state[name].copy_(split_like(stored[name], state[name]))

    def _load_optimizer(self, folder: Path) -> None:
        sharded = is_sharded(self.policy)
        name = SHARDED if sharded else OPTIMIZER
        if not (folder / f"{name}.json").exists():
            raise Refusal(
                f"{folder} has no {name}.json: another launcher (FSDP2, or none) or an earlier version wrote it; "
                "resume with the same, or start anew in another output_dir."
            )
        if not sharded:
            self.optimizer.load_state_dict(read_tree(folder, name))
            return
        state = read_tree(folder, name) if self.accelerator.is_main_process else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=options)


def read_generators(device: torch.device) -> dict[str, Any]:
    """State of the global generators. Draws about pairs need none; dropout does, and what users bring."""
    numbers: Any = np.random.get_state()
    kind, key, *rest = numbers
    found = {"python": random.getstate(), "numpy": (kind, key.tolist(), *rest), "torch": torch.get_rng_state()}
    if device.type != "cpu":
        found["device"] = torch.get_device_module(device).get_rng_state()
    return found


def restore_generators(found: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    torch.set_rng_state(found["torch"])
    if device.type != "cpu" and "device" in found:
        torch.get_device_module(device).set_rng_state(found["device"])
