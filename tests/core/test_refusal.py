import pytest
from torch._utils import ExceptionWrapper

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.files.pictures import BrokenImage


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


@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("number", [-1, 0, 1, 2, 0.5, float("nan"), None])
def test_a_number_is_refused_by_name_if_it_is_smaller_than_the_least(least, number):
    if number is None or number >= least:
        require_at_least(least, **{"fit.keep": number})
    else:
        with pytest.raises(Refusal, match=f"fit.keep must be at least {least}, got {number}"):
            require_at_least(least, **{"fit.keep": number})
