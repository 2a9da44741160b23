"""A negative for guidance as files: mixed from a base, what was tuned on it, and a negative, a tensor at a time."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Blend
from diffpo.diffusion.base.files import WEIGHTS, find_weight_files, locate_weights, write_sharded
from diffpo.diffusion.pipelines.negative_parts import (
    DIFFERENCE,
    MARK,
    open_part,
    part_named,
    require_known_range,
    require_layout,
)
from diffpo.storage.digests import name_exported
from diffpo.storage.files import name_failed_writes
from diffpo.storage.tensors import LazyTensors, open_tensors


@dataclass(frozen=True)
class MixedNegative:
    """What was written.

    Attributes:
        path: of the network or the difference.
        tensors: how many.
        relative: |theta_neg - theta| / |theta|, as written.
    """

    path: Path
    tensors: int
    relative: float


def mix_negative(
    base: str,
    negative: str,
    output_dir: Path,
    positive: str | None = None,
    alpha: float = 1.0,
    mix: float = 1.0,
    dtype: torch.dtype | None = None,
    difference: bool = False,
    shard_size: int = 10**9,
) -> MixedNegative:
    """Write theta + alpha (positive - theta) + mix (negative - theta) as `output_dir/unet`, of transformers
    `output_dir/transformer`.

    No more than one shard is in memory, and nothing is at `output_dir` until all is written.

    Args:
        base: theta: hub id, or folder of a network with its config, at the top, in `unet/` or `transformer/`.
        negative: see `diffpo.diffusion.pipelines.negative_parts.open_part`.
        output_dir: which does not exist or is empty.
        positive: like `negative`; None adds nothing.
        alpha: how much of the positive's offset is kept.
        mix: how much of the negative's offset is added.
        dtype: of the weights written; None is each weight's own in the base, and fp32 for a difference, as numbers
            below 6e-8 are nothing in fp16.
        difference: write the sum of both offsets alone, to be added to other tuned networks.
        shard_size: in bytes.

    Raises:
        Refusal: if something cannot be read or does not fit the base, or there is something at output_dir.
        Refusal: if the disk is full.
    """
    if positive == negative:
        raise Refusal(f"{negative} is given as positive and as negative; name two, or only the negative.")
    if output_dir.exists() and (output_dir.is_file() or any(output_dir.iterdir())):
        raise Refusal(f"output_dir {output_dir} is not empty and is not overwritten; choose another one.")
    require_known_range(alpha=alpha, mix=mix)
    theta, config = opened_base(base)
    kind = find_class(config, base)
    parts = [] if positive is None else [(alpha, open_part(positive, config, kind))]
    blend = Blend(theta, (*parts, (mix, open_part(negative, config, kind))))
    names = blend.changed if difference else list(theta)
    dtype = dtype or (torch.float32 if difference else None)
    moved = 0.0

    def tensor(name: str) -> Tensor:
        nonlocal moved
        before = theta[name]
        after = blend.offset(name, before)
        after = (after if difference else after.add_(before)).to(dtype or before.dtype)
        moved += float((after.double() if difference else after.double() - before).square().sum())
        return after

    sizes = {name: theta[name].numel() * (dtype or theta[name].dtype).itemsize for name in names}
    unfinished = output_dir.with_name(f".{output_dir.name}.unfinished")
    with name_failed_writes(str(output_dir), "nothing was left there"):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            folder = unfinished if difference else unfinished / part_named(kind)
            folder.mkdir(parents=True)
            if difference:
                write_sharded(tensor, sizes, folder, Path(DIFFERENCE).stem, shard_size, MARK)
            else:
                write_sharded(tensor, sizes, folder, WEIGHTS, shard_size, {})
                (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            name_exported(unfinished)
            unfinished.rename(output_dir)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return MixedNegative(
        output_dir / (DIFFERENCE if difference else part_named(kind)), len(names), (moved / squares(theta)) ** 0.5
    )


def find_class(config: FrozenDict, path: str) -> Any:
    """The class of a network of diffusers.

    Raises:
        Refusal: if its config names none.
    """
    kind = getattr(diffusers, name := str(config.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, ModelMixin)):
        raise Refusal(f"{path} is a {name} by its config.json, which is no network of diffusers; name the base's.")
    return kind


def opened_base(path: str) -> tuple[LazyTensors, FrozenDict]:
    """The weights of a network, to be read later, and its config.

    Raises:
        Refusal: if there is none in safetensors, or no config beside it.
    """
    files = find_weight_files(locate_weights(path, WEIGHTS))
    if not files or files[0].suffix != ".safetensors":
        raise Refusal(
            f"{path} has no network in safetensors ({WEIGHTS}.safetensors in unet/, transformer/ or at the top); "
            "load it with diffusers and save it again with save_pretrained(folder)."
        )
    weights = open_tensors(files)
    require_layout(path, weights)
    if not (config := files[0].parent / "config.json").exists():
        raise Refusal(f"{path} has no config.json beside its weights; copy the one of the network there.")
    return weights, FrozenDict(json.loads(config.read_text()))


def squares(weights: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in weights.values())
