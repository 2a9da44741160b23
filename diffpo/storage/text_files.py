"""Text files from anywhere: UTF-8, or what their byte-order mark says."""

import codecs
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from diffpo.core.refusal import Refusal

# The mark of UTF-32 begins with that of UTF-16.
ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(data: bytes) -> str:
    """The encoding of a text that begins so."""
    return next((encoding for mark, encoding in ENCODINGS.items() if data.startswith(mark)), "utf-8")


def decode_text(data: bytes, name: str) -> str:
    """The text of a file. The mark of UTF-8 stays in front, for `diffpo.data.typed.Field.prompt` to count.

    Args:
        name: of the file, for the error.

    Raises:
        Refusal: if it is in another encoding.
    """
    try:
        text = data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        raise Refusal(describe_undecodable(name, error)) from error
    if "\0" in text:  # of UTF-16 without its mark, every other byte
        raise Refusal(f"{name} is no text in {encoding_of(data)} (it holds zeros); save it as UTF-8")
    return text


def read_text(file: Path) -> str:
    """The text of a file, its lines ending with a line feed.

    Raises:
        Refusal: if it is neither in UTF-8 nor has the byte-order mark of another encoding.
    """
    return StringIO(decode_text(file.read_bytes(), str(file)), newline=None).read()


def describe_undecodable(name: str, error: UnicodeDecodeError) -> str:
    """What is wrong with a file, and the remedy."""
    return f"{name} is no text in {error.encoding} ({error.reason} at byte {error.start}); save it as UTF-8"


def require_utf8(files: Sequence[str]) -> None:
    """Raise a Refusal if one of the files has the byte-order mark of another encoding."""
    for file in files:
        with Path(file).open("rb") as begin:
            if (encoding := encoding_of(begin.read(4))) != "utf-8":
                raise Refusal(f"{file} is a text in {encoding}; save it as UTF-8")


def first_undecodable(files: Sequence[str]) -> str | None:
    """Which of the files is not in UTF-8, and the remedy; None if all are."""
    for file in files:
        try:
            with Path(file).open(encoding="utf-8") as lines:
                for _ in lines:
                    pass
        except UnicodeDecodeError as error:
            return describe_undecodable(file, error)
    return None
