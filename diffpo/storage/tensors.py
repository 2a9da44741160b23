"""Tensors in safetensors files, read one at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffpo.core.refusal import Refusal

# Bytes that are read of a file before it is opened anew: what was read of it stays in memory till then.
TOGETHER = 2**26


@dataclass(eq=False)
class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for and soon forgotten by this object.

    Attributes:
        files: of every tensor.
    """

    files: Mapping[str, Path]
    opened: dict[Path, Any] = field(default_factory=dict)
    read: int = 0

    def __getitem__(self, name: str) -> Tensor:
        file = self.files[name]
        if file not in self.opened:
            self.opened[file] = safe_open(file, "pt")
        tensor = self.opened[file].get_tensor(name)
        self.read += tensor.nbytes
        if self.read > TOGETHER:
            self.opened.clear()
            self.read = 0
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def open_tensors(files: list[Path]) -> LazyTensors:
    """What is in some files.

    Raises:
        Refusal: if one is absent or broken.
    """
    found = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Refusal(f"{path} cannot be read as safetensors ({reason}); copy or download it again.") from error
    return LazyTensors(found)


def read_header(file: Path) -> dict[str, str]:
    """The metadata of a file."""
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}
