"""Nested state, as optimizers and schedules give it, as JSON and safetensors: reading it runs nothing."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from diffpo.core.refusal import Refusal

PIECE = 2**31  # bytes of tensors in a file, about; as many are copied at a time


def write_tree(folder: Path, name: str, tree: Any) -> None:
    """Write `name.json`, and the tensors beside it as `name-0.safetensors` and so on.

    Args:
        tree: of mappings, lists, tuples, tensors, numbers, texts, true, false and null. A tensor that stands in
            several places is stored once, and is one again when it is read.

    Raises:
        Refusal: if there is something else in it.
    """
    names: dict[Any, str] = {}
    tensors: dict[str, Tensor] = {}

    def keep(tensor: Tensor) -> str:
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        known = names.setdefault(where if tensor.numel() else len(names), str(len(names)))
        tensors[known] = tensor
        return known

    stored, files = pack_tree(tree, keep), 0
    for piece in split_tensors(tensors):
        copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in piece.items()}
        save_file(copies, tensors_in(folder, name, files))
        files += 1
    (folder / f"{name}.json").write_text(json.dumps({"tree": stored, "files": files}) + "\n")


def read_tree(folder: Path, name: str) -> Any:
    """What `write_tree` wrote, its tensors on the CPU.

    Raises:
        OSError, SafetensorError, ValueError, LookupError, TypeError: if a file is missing or damaged.
    """
    said = json.loads((folder / f"{name}.json").read_bytes())
    tensors: dict[str, Tensor] = {}
    for number in range(said["files"]):
        tensors |= load_file(tensors_in(folder, name, number))
    return unpack_tree(said["tree"], tensors)


def tensors_in(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number}.safetensors"


def split_tensors(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors that go to one file, in order."""
    piece, size = dict[str, Tensor](), 0
    for name, tensor in tensors.items():
        if piece and size + tensor.nbytes > PIECE:
            yield piece
            piece, size = {}, 0
        piece[name] = tensor
        size += tensor.nbytes
    if piece:
        yield piece


def pack_tree(tree: Any, keep: Callable[[Tensor], str]) -> Any:
    """A tree for JSON, which knows neither tensors nor tuples, and keys that are texts only.

    Args:
        keep: gives the name under which a tensor is stored.
    """
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if isinstance(tree, Tensor):
        return {"tensor": keep(tree)}
    if isinstance(tree, Mapping):
        return {"mapping": [[pack_tree(key, keep), pack_tree(value, keep)] for key, value in tree.items()]}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [pack_tree(value, keep) for value in tree]}
    raise Refusal(
        f"The state of this run holds a {type(tree).__name__}, which checkpoints do not store; choose another "
        "optimizer, objective or reference, or set fit.save_every to null."
    )


def unpack_tree(stored: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was packed.

    Raises:
        ValueError, LookupError, TypeError: if it was not.
    """
    if not isinstance(stored, dict):
        return stored
    [(kind, value)] = stored.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "mapping":
        return {unpack_tree(key, tensors): unpack_tree(entry, tensors) for key, entry in value}
    return {"list": list, "tuple": tuple}[kind](unpack_tree(entry, tensors) for entry in value)
