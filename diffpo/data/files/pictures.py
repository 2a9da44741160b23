"""Pictures from whatever a column holds."""

import base64
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from PIL import Image, ImageOps

from diffpo.core.refusal import Refusal
from diffpo.data.files.places import Outside, find_inside
from diffpo.data.typed import show_value

STRUCT = ("bytes", "data", "path", "src", "url")  # where a struct may have its picture, in this order
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
INLINE = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
REASON = 200  # characters of a library's error that are told
LONGEST = 255  # characters of a file's name, on most disks
STRAIGHT = {"La": "LA", "RGBa": "RGBA"}  # modes whose colours are multiplied by their opacity, and what they become
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # the others of Pillow are old, or start programs
MOST_PIXELS = 89_478_485  # from which on Pillow warns; it takes no more than twice as many
# What decoders say of damage: mostly an OSError, but each of these was met.
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, RuntimeError)
DAMAGE += (ArithmeticError, MemoryError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)
WHITES = {"I": (255, 65535), "F": (1, 255)}  # greatest numbers of pictures that do not say what white is


class BrokenImage(Refusal):
    """A picture that cannot be read; it costs its pair, not the run."""


def read_image(value: Any, folder: Path | None = None, most: int = MOST_PIXELS) -> Image.Image:
    """Decode to RGB what `open_value` finds.

    Rotation stored by cameras is applied, transparency is laid on white, all modes become RGB (`to_rgb`).

    Args:
        folder: that paths are relative to, and lie in, if data name them. None takes any path as it stands.
        most: pixels that a picture may have.

    Raises:
        BrokenImage: if there is nothing, nothing of `FORMATS` that decodes, or too many pixels.
    """
    with broken_if_unreadable():
        return to_rgb(ImageOps.exif_transpose(open_picture(value, folder, most)))


def image_size(value: Any, folder: Path | None = None, most: int = MOST_PIXELS) -> tuple[int, int]:
    """Width and height as stored, from the header alone; see `read_image`.

    Raises:
        BrokenImage: if there is nothing, no such header, or too many pixels.
    """
    with broken_if_unreadable():
        return open_picture(value, folder, most).size


def open_picture(value: Any, folder: Path | None, most: int) -> Image.Image:
    found = open_value(value, folder)
    if not isinstance(found, Image.Image):
        found = Image.open(BytesIO(found) if isinstance(found, bytes) else found, formats=list_formats())
    if found.width * found.height > most:
        raise BrokenImage(
            f"it has {found.width} x {found.height} pixels, more than the {most:,} of the source's most_pixels"
        )
    return found


@cache
def list_formats() -> list[str]:
    """Those of `FORMATS` that the installed Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def open_value(value: Any, folder: Path | None) -> bytes | Path | Image.Image:
    """The picture that a value holds: bytes, a path, a data URL or a PIL image; or one of these in a struct (`STRUCT`)
    or as the only one of a list.

    Raises:
        BrokenImage: if there is nothing, or something else.
    """
    if isinstance(value, Mapping) and not value.keys().isdisjoint(STRUCT):
        return open_value(next((value[name] for name in STRUCT if value.get(name) is not None), None), folder)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 1:
        return open_value(value[0], folder)
    if value is None:
        raise BrokenImage("it is null")
    if isinstance(value, str | Path):
        return open_text(value, folder)
    if isinstance(value, bytes | Image.Image):
        return value
    raise BrokenImage(f"it is {show_value(value)}, of type {type(value).__name__}, not a picture's bytes or path")


def open_text(value: str | Path, folder: Path | None) -> bytes | Path:
    """What a text says of a picture: where it is, or all of it."""
    text = str(value)
    if INLINE.match(text):
        return base64.b64decode(text.partition(",")[2])
    if ADDRESS.match(text):
        raise BrokenImage(f"{show_value(text)} is an address; download the pictures, and name their files")
    place = Path(text) if folder is None else folder / text
    if not isfile(place):
        told = f"; of base64 ({len(text)} characters), store the bytes" if len(text) > LONGEST else ""
        raise BrokenImage(f"there is no file {show_value(text)}{told}")
    return place if folder is None else find_inside(folder, text)


@contextmanager
def broken_if_unreadable() -> Iterator[None]:
    try:
        yield
    except Outside as error:
        raise BrokenImage(str(error)) from error
    except Refusal:
        raise
    except DAMAGE as error:
        raise BrokenImage(f"{type(error).__name__}: {error}"[:REASON]) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode in RGB.

    Of 16 bits, the upper 8 are taken. Integers of 32 bits may be of either kind, and floats go to 1 or to 255: the
    smaller range is taken if the picture stays within.

    Raises:
        BrokenImage: if numbers are in no such range.
        ValueError: if Pillow does not convert this mode.
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return of_numbers(np.asarray(picture), picture.mode, picture.info.get("transparency")).convert("RGB")
    if picture.has_transparency_data:
        straight = picture.convert(STRAIGHT[picture.mode]) if picture.mode in STRAIGHT else picture
        rgba = straight.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def of_numbers(pixels: Num[np.ndarray, "h w"], mode: str, transparent: Any) -> Image.Image:
    """A grey picture.

    Args:
        transparent: the number that is to be white, if there is one.
    """
    low, high = pixels.min(), pixels.max()
    white = next((white for white in WHITES.get(mode, (65535,)) if 0 <= low <= high <= white), None)
    if white is None:
        raise BrokenImage(f"its numbers (mode {mode}) go from {low} to {high}, which is no range of a picture")
    grey = (pixels.astype(np.float64) * (255 / white)).round() if mode == "F" else pixels // max(1, (white + 1) // 256)
    grey = np.where(pixels == transparent, 255, grey) if isinstance(transparent, int) else grey
    return Image.fromarray(grey.astype(np.uint8))
