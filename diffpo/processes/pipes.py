"""What is printed for a reader that may leave before the end: `diffpo recipes | head`."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def leave_with_reader() -> Iterator[None]:
    """Once nobody reads the output any more, end as other programs do: without a word, 128 + SIGPIPE as exit code."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not is_output_cut():
            raise
        # Python flushes once more when it ends, which then has to work.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def is_output_cut() -> bool:
    """Whether it is the output that nobody reads, and not a pipe to another process."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False
