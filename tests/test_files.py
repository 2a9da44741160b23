import resource
import signal
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import save_file

from diffpo.files import sparing, writing
from diffpo.refusal import Refusal


def fill(folder, told) -> None:
    """No file can outgrow 100 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    for name, write in {
        "text": lambda file: file.write_text("x" * 200),
        "tensors": lambda file: save_file({"x": torch.zeros(100)}, file),
    }.items():
        try:
            with writing(name, "Free some space."):
                write(folder / name)
        except Refusal as error:
            told.send(str(error))


def test_a_full_disk_is_one_line_that_says_what_and_how_to_go_on(tmp_path):
    told, end = get_context("fork").Pipe()
    process = get_context("fork").Process(target=fill, args=(tmp_path, end))
    process.start()
    process.join(60)
    for name in ("text", "tensors"):
        assert told.poll()
        line = told.recv()
        assert line.startswith(f"{name} could not be written (")
        assert line.endswith("). Free some space.")
        assert "\n" not in line


def test_other_errors_pass():
    with pytest.raises(KeyError), writing("x", "y"):
        raise KeyError


def test_what_is_about_work_that_is_done_is_only_told(caplog):
    with sparing("The card"):
        raise OSError(28, "No space left on device")
    assert "The card could not be written ([Errno 28] No space left on device); all else goes on." in caplog.text
    with pytest.raises(KeyError), sparing("The card"):
        raise KeyError
