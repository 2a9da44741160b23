import os
import subprocess
import sys

import pytest

from diffpo.processes import pipes

CASES = [
    ("recipes", ""),
    ("recipes", "1"),
    ("--help", ""),
    ("convert --help", "1"),
    ("convert extrapolate --help", ""),
]


@pytest.mark.parametrize(("words", "unbuffered"), CASES)
def test_a_verb_whose_reader_leaves_ends_without_a_word(words, unbuffered):
    """As if `head` had read enough before anything was written."""
    reading, writing = os.pipe()
    os.close(reading)
    surroundings = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "diffpo", *words.split()]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=surroundings)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_to_another_process_keeps_its_traceback():
    with pytest.raises(BrokenPipeError, match="of a worker"), pipes.leave_with_reader():
        raise BrokenPipeError("of a worker")
