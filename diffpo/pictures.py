"""Pictures from whatever a column holds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from diffpo.refusal import Refusal


class BrokenImage(Refusal):
    """A picture that cannot be read; it costs its pair, not the run."""


def read_image(value: Any, folder: Path = Path()) -> Image.Image:
    """Decode bytes, a path, a {"bytes", "path"} mapping or a PIL image to RGB.

    Rotation stored by cameras is applied, transparency is laid on white, grey, palette, 16-bit and CMYK become RGB.

    Args:
        folder: what relative paths are relative to.

    Raises:
        BrokenImage: if there is nothing, or nothing that decodes.
    """
    with broken_if_unreadable():
        return to_rgb(ImageOps.exif_transpose(opened(value, folder)))


def image_size(value: Any, folder: Path = Path()) -> tuple[int, int]:
    """Width and height as stored, from the header alone.

    Raises:
        BrokenImage: if there is nothing, or no such header.
    """
    with broken_if_unreadable():
        return opened(value, folder).size


def opened(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if value is None:
        raise BrokenImage("it is null")
    if isinstance(value, bytes):
        return Image.open(BytesIO(value))
    return Image.open(folder / value) if isinstance(value, str | Path) else value


@contextmanager
def broken_if_unreadable() -> Iterator[None]:
    try:
        yield
    except Refusal:
        raise
    # PIL raises OSError for most damage, but also these for a few formats.
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")
