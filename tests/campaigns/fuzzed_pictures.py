"""Pictures of all allowed formats, mutated by a seed: each is read, or is a broken picture, without a word beside.

python tests/campaigns/fuzzed_pictures.py --tries 10000
"""

import argparse
import resource
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import BytesIO
from os import dup, dup2, fstat, pread
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests.parent / "scripts"), *(str(tests / name) for name in ("", "helpers", "scripts"))]

import numpy as np
from campaigns.outcomes import Outcomes
from PIL import Image

from diffpo.data.files.pictures import FORMATS, BrokenImage, image_size, list_formats, read_image
from diffpo.processes.quiet import leave_out_what_is_said_in_vain

# Silent is any other error, something that is no RGB picture, and what is said beside: the user could do nothing about
# it, and does not learn of which picture it is. Libtiff writes lines to stderr that Python cannot keep from there.
ROWS = ("read", "broken", "broken or read, with a line of libtiff", "silent")
WIDTH, HEIGHT = 37, 29
MOST = 1_000_000  # pixels
ROOM = 256 * 2**20  # bytes of memory that reading may take beside what was there
LARGE = (0xFFFF, 0x7FFF, 0x3FFF, 9001, 0xFFFFFF, 0x7FFFFFFF, 0)

Rng = np.random.Generator
Mutation = Callable[[bytes, Rng, list[bytes]], bytes]


def originals() -> dict[str, list[bytes]]:
    """Whole pictures of many modes and options, by format."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8))
    grey16 = Image.fromarray(rng.integers(65536, size=(HEIGHT, WIDTH), dtype=np.uint16))
    floats = Image.fromarray(rng.random((HEIGHT, WIDTH), dtype=np.float32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    clear = rgb.convert("P")
    clear.info["transparency"] = 3
    beside = {"exif": exif, "icc_profile": bytes(200)}
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    made: dict[str, list[tuple[Image.Image, dict]]] = {
        "PNG": [(rgb.convert(mode), {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        "JPEG": [(rgb, {}), (rgb.convert("L"), {}), (rgb.convert("CMYK"), {}), (rgb, {"progressive": True, **beside})],
        "WEBP": [
            (rgb, {}),
            (rgb, {"lossless": True}),
            (rgb.convert("RGBA"), {"exact": True, **beside}),
            (rgb, frames),
        ],
        "AVIF": [
            (rgb, {"speed": 10}),
            (rgb.convert("RGBA"), {"speed": 10, "exif": exif}),
            (rgb, {"speed": 10, **frames}),
        ],
        "GIF": [(rgb.convert("P"), {}), (clear, {"interlace": 1}), (rgb, frames)],
        "BMP": [(rgb.convert(mode), {}) for mode in ("1", "L", "P", "RGB", "RGBA")],
        "TIFF": [
            *[(rgb.convert(mode), {}) for mode in ("1", "L", "P", "RGBA", "CMYK", "YCbCr", "LAB")],
            *[(rgb, {"compression": how}) for how in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")],
            *[(grey16, {}), (floats, {}), (rgb, frames)],
        ],
    }
    made["PNG"] += [(grey16, {}), (clear, {"transparency": 3}), (rgb, beside), (rgb, frames)]
    return {name: [saved(*one, name) for one in made[name]] for name in FORMATS if name in list_formats()}


def saved(picture: Image.Image, options: dict, name: str) -> bytes:
    held = BytesIO()
    picture.save(held, name, **options)
    return held.getvalue()


def flipped(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """Some bits, more often near the front."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        changed[int(len(changed) * rng.random() ** rng.integers(1, 4))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    return content[: rng.integers(len(content))]


def overwritten(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """A block, with noise, nothing but ones, or zeros."""
    at, size = int(len(content) * rng.random() ** 2), int(rng.integers(1, 17))
    block = [rng.bytes(size), b"\xff" * size, bytes(size)][rng.integers(3)]
    return content[:at] + block + content[at + size :]


def left_out(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    at, size = rng.integers(len(content)), rng.integers(1, 65)
    return content[:at] + content[at + size :]


def repeated(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    at, size = rng.integers(len(content)), rng.integers(1, 65)
    return content[:at] + content[at : at + size] * int(rng.integers(2, 6)) + content[at + size :]


def spliced(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """The front of one picture and the end of another."""
    other = others[rng.integers(len(others))]
    return content[: rng.integers(len(content))] + other[rng.integers(len(other)) :]


def resized(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """What may be the width or the height becomes a large number."""
    side, shape = int(rng.choice([WIDTH, HEIGHT])), str(rng.choice([">H", "<H", ">I", "<I"]))
    places = [n for n in range(len(content)) if content.startswith(struct.pack(shape, side), n)]
    places = places or [n for n in range(len(content)) if content.startswith(struct.pack("<H", side - 1), n)]  # WebP
    if not places:
        return flipped(content, rng, others)
    at, size = places[rng.integers(len(places))], struct.calcsize(shape)
    large = struct.pack(shape, int(rng.choice(LARGE)) % 256**size)
    return content[:at] + large + content[at + size :]


MUTATIONS: tuple[Mutation, ...] = (flipped, cut, overwritten, left_out, repeated, spliced, resized)


def checked_anew(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now, so that what was mutated is looked at."""
    made, at = content[:8], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        if at + 12 + size > len(content):
            break
        body = content[at + 4 : at + 8 + size]
        made += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return made + content[at:]


def mutated(kinds: dict[str, list[bytes]], rng: Rng) -> tuple[str, bytes]:
    """A picture of some format, once or several times mutated."""
    name = list(kinds)[rng.integers(len(kinds))]
    others = [one for some in kinds.values() for one in some]
    content = kinds[name][rng.integers(len(kinds[name]))]
    for _ in range(rng.integers(1, 4)):
        content = MUTATIONS[rng.integers(len(MUTATIONS))](content, rng, others) or b"\0"
    return name, checked_anew(content) if name == "PNG" and rng.random() < 0.8 else content


@contextmanager
def overhearing() -> Iterator[Callable[[], str]]:
    """Inside, a function gives what has gone to stderr since it was asked last, that of C libraries too."""
    before, place = dup(2), [0]
    with tempfile.TemporaryFile() as said, redirect_stderr(open(2, "w", closefd=False)):  # not what pytest puts there

        def more() -> str:
            sys.stderr.flush()
            new = pread(said.fileno(), 2000, place[0])
            place[0] = fstat(said.fileno()).st_size
            return new.decode(errors="replace")

        dup2(said.fileno(), 2)
        try:
            yield more
        finally:
            dup2(before, 2)


def outcome(content: bytes) -> tuple[str, str]:
    """What becomes of a picture, and why."""
    try:
        image_size(content, most=MOST)
        picture = read_image(content, most=MOST)
        picture.load()
    except BrokenImage as broken:
        return ("broken", "") if "\n" not in str(broken) else ("silent", "its error has several lines")
    except Exception as error:
        return "silent", f"{type(error).__name__}: {error}"
    if picture.mode != "RGB" or picture.width * picture.height > MOST:
        return "silent", f"{picture} was read"
    return "read", ""


def campaign(tries: int, seed: int = 0, keep: Path | None = None) -> tuple[Outcomes, int]:
    """Outcomes by format, and the bytes by which the process has grown at its largest."""
    outcomes, kinds, rng = Outcomes(ROWS), originals(), np.random.default_rng(seed)
    assert all(outcome(one) == ("read", "") for some in kinds.values() for one in some)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with overhearing() as heard, warnings.catch_warnings():
        warnings.simplefilter("always")
        leave_out_what_is_said_in_vain()
        for number in range(tries):
            name, content = mutated(kinds, rng)
            row, why = outcome(content)
            if said := heard():
                of_libtiff = content[:2] in (b"II", b"MM") and "Warning" not in said and "Traceback" not in said
                row, why = (ROWS[2], "") if of_libtiff and row != "silent" else ("silent", f"{why} {said}")
            outcomes.add(name, row, f"number {number} of seed {seed}: {why}")
            if row == "silent" and keep:
                (keep / f"{name}-{number}").write_bytes(content)
    return outcomes, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for pictures that did what they must not")
    chosen = parser.parse_args()
    outcomes, grown = campaign(chosen.tries, chosen.seed, chosen.keep)
    print(outcomes)
    print(f"memory: {grown / 2**20:.0f} MiB more at the most, {ROOM / 2**20:.0f} are allowed")
    print("\n".join(outcomes.worst))
    return bool(outcomes.worst) or grown > ROOM


if __name__ == "__main__":
    sys.exit(main())
