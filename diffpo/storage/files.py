"""Files that a run reads and leaves: what is not there, and what could not be written, in one line with a remedy."""

import errno
import json
import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from diffpo.core.refusal import Refusal

CONFIG = "config.yaml"  # what was chosen for a run or a job, in its folder

ROOM = "Make room there (or choose another folder)"
ACCESS = "Get the right to write there (or choose another folder)"
IN_THE_WAY = "Something of another kind is called so; move it away, or choose another name"
REMEDIES = {
    errno.ENOENT: "Something removed its folder while this ran; find out what",
    errno.EACCES: ACCESS,
    errno.EPERM: ACCESS,
    errno.EROFS: ACCESS,
    errno.EEXIST: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EISDIR: IN_THE_WAY,
    errno.ENAMETOOLONG: "Choose a shorter name",
}
NO_NAME = re.compile(r'[/\\:*?"<>|]|^\.|[. ]$|^ ')
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # which Windows opens in every folder
LONGEST = 100  # bytes of a name
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger(__name__)


@contextmanager
def name_failed_writes(what: str, then: str = "") -> Iterator[None]:
    """Name what could not be written, and the remedy.

    Args:
        then: what holds once the cause is mended.

    Raises:
        Refusal: if the block fails to write, e.g. because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        ends = f"; {then}." if then else "."
        raise Refusal(f"{what} could not be written ({in_one_line(error)}). {remedy_of(error)}{ends}") from error


def remedy_of(error: BaseException | None, room: str = ROOM) -> str:
    """What mends a failed write, as a sentence without its full stop.

    Args:
        error: None if another process has it.
        room: what is said of a full disk.
    """
    number = number_of(error)
    unknown = f"{room}, unless the disk itself fails" if number and number not in FULL else room
    return REMEDIES.get(number, unknown)


def number_of(error: BaseException | None) -> int:
    """The system's number of an error, also where a library tells it in words; 0 if it says none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"os error (\d+)", str(error))  # of safetensors
    if told:
        return int(told[1])
    return errno.ENOENT if "directory" in str(error) and "does not exist" in str(error) else 0  # of torch.save


def in_one_line(error: BaseException, longest: int = 200) -> str:
    return " ".join(str(error).split())[:longest]


def require_folder(path: Path | str, what: str) -> None:
    """Raise a Refusal if a folder that is to be read is not there, is a file, or is not ours to read.

    Args:
        what: it is, e.g. "a folder of pairs".
    """
    try:
        is_there = Path(path).exists()
        if is_there and Path(path).is_dir():
            os.listdir(path)
            return
    except PermissionError as error:
        raise Refusal(f"{path}, which was named as {what}, is not ours to read; get the right to.") from error
    if is_there:
        raise Refusal(f"{path} is a file and was named as {what}; name the folder.")
    raise Refusal(f"There is no {path}, which was named as {what}; check the spelling, seen from {Path.cwd()}.")


def sort_metadata(file: Path) -> None:
    """Sort the metadata of a safetensors file in place, which the library writes in an order of chance.

    Two files of the same tensors and metadata then have the same bytes.
    """
    with file.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        opened.seek(8)
        opened.write(text.ljust(size))


def require_name(name: str, what: str, taken: Collection[str] = ()) -> None:
    """Raise a Refusal if a name cannot be that of a folder, wherever the folder above is copied to.

    Args:
        what: has the name, e.g. "a model".
        taken: names of what else is written there; upper and lower case are one.
    """
    bytes_of_name = len(name.encode("utf-8", "replace"))
    fits = 0 < bytes_of_name <= LONGEST and name.isprintable()
    if not fits or NO_NAME.search(name) or DEVICES.fullmatch(name):
        raise Refusal(
            f"{name[:LONGEST]!r} cannot be the name of {what}, which a folder gets too; take letters and digits, at "
            f"most {LONGEST}, with '-', '_', dots or spaces between them."
        )
    if name.casefold() in {other.casefold() for other in taken}:
        raise Refusal(f"{name!r} cannot be the name of {what}: something else is called so there; choose another one.")


@contextmanager
def tell_failed_writes(what: str) -> Iterator[None]:
    """Tell what could not be written, and go on: it is about work that is done."""
    try:
        yield
    except OSError as error:
        log.warning(f"{what} could not be written ({in_one_line(error)}); all else goes on.")
