"""Programs of the tests in processes of their own, on CPUs and one thread each."""

import runpy
import sys
from pathlib import Path

from tiny_runs import in_process, together

TESTS = Path(__file__).parent


def started(program: Path, *arguments, processes: int = 1, **environment: str) -> list[int | None]:
    """Exit codes of a program in one process, or in several that find one another as those of torchrun do.

    They are forked from a process that has the libraries: to import these anew takes ten seconds in each.
    """
    words = [str(word) for word in (program, *arguments)]
    if processes == 1:
        return [in_process(as_program, words)]
    return together(processes, as_program, words, **environment)


def as_program(words: list[str]) -> None:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
