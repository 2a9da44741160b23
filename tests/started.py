"""Programs of the tests in processes of their own, on CPUs and one thread each."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def started(*arguments) -> subprocess.CompletedProcess:
    """What python does with these arguments; the scripts and the tests' own modules can be imported."""
    paths = os.pathsep.join(map(str, [TESTS, TESTS.parent / "scripts", TESTS.parent]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *arguments]
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
