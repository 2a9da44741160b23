import pytest
from torch._utils import ExceptionWrapper

from diffpo.pictures import BrokenImage
from diffpo.refusal import Refusal


def reraised(error: Exception) -> Exception:
    """What torch makes of an error of a worker, without the five seconds in which it waits for that worker."""
    try:
        raise error
    except Refusal:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    try:
        wrapper.reraise()
    except Refusal as again:
        return again


@pytest.mark.parametrize("kind", [Refusal, BrokenImage])
def test_the_traceback_of_a_worker_is_left_out(kind):
    again = reraised(kind("the cause: 7; a remedy."))
    assert type(again) is kind
    assert str(again) == "the cause: 7; a remedy."


def test_a_line_of_the_training_process_stays_as_it_is():
    assert str(Refusal("Caught: a line; a remedy.")) == "Caught: a line; a remedy."
