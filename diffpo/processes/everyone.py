"""What the main process finds, all processes hear."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from diffpo.core.refusal import Refusal

T = TypeVar("T")


def on_main(work: Callable[[], T]) -> T | None:
    """Let the main process look at files, and give it what that finds; every process has to call this.

    Raises:
        Refusal: in all of them, what `work` refuses in the main one.
    """
    found, problem = None, ""
    if PartialState().is_main_process:
        try:
            found = work()
        except Refusal as refused:
            problem = str(refused)
    fail_together(problem)
    return found


def fail_together(problem: str) -> None:
    """Have all processes fail if one does; every process has to call this.

    Args:
        problem: of this process; empty if there is none.

    Raises:
        Refusal: with the first problem of any.
    """
    if problems := [said for said in gather_object([problem]) if said]:
        raise Refusal(problems[0])
