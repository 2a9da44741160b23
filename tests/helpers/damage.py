"""What may happen to a file: cut, emptied, one byte flipped, replaced by text, removed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def cut(file: Path, seed: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: np.random.default_rng(seed).integers(1, len(content))])


def emptied(file: Path, seed: int) -> None:
    file.write_bytes(b"")


def flipped(file: Path, seed: int) -> None:
    """Some bit of one byte."""
    rng, content = np.random.default_rng(seed), bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def text(file: Path, seed: int) -> None:
    file.write_text(f"Not found ({seed})\n")


def removed(file: Path, seed: int) -> None:
    file.unlink()


DAMAGES: dict[str, Callable[[Path, int], None]] = {
    function.__name__: function for function in (cut, emptied, flipped, text, removed)
}
