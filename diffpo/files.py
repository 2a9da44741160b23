"""Files that a run leaves: a failed write is told in one line, with what to do."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from diffpo.refusal import Refusal

log = logging.getLogger(__name__)


@contextmanager
def writing(what: str, remedy: str) -> Iterator[None]:
    """Name what could not be written, and the remedy.

    Raises:
        Refusal: if the block fails to write, e.g. because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise Refusal(f"{what} could not be written ({' '.join(str(error).split())[:200]}). {remedy}") from error


@contextmanager
def sparing(what: str) -> Iterator[None]:
    """Tell what could not be written, and go on: it is about work that is done."""
    try:
        yield
    except OSError as error:
        log.warning(f"{what} could not be written ({' '.join(str(error).split())[:200]}); all else goes on.")
