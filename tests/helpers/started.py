"""Programs of the tests in processes of their own, on CPUs and one thread each."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from tiny_runs import in_process, together

HELPERS = Path(__file__).parent


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


def launched(program: Path, *arguments, processes: int) -> list[int]:
    """The same as `started`, by torchrun, which starts each process from nothing."""
    paths = {"PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])])}
    environment = os.environ | paths | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launch, str(program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [0] * processes
