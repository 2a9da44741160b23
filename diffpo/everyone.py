"""What the main process finds, all processes hear."""

from collections.abc import Callable

from accelerate import PartialState
from accelerate.utils import gather_object

from diffpo.refusal import Refusal


def on_main(check: Callable[[], None]) -> None:
    """Let the main process look at files; every process has to call this.

    Raises:
        Refusal: in all of them, what `check` refuses in the main one.
    """
    problem = ""
    if PartialState().is_main_process:
        try:
            check()
        except Refusal as refused:
            problem = str(refused)
    told(problem)


def told(problem: str) -> None:
    """Have all processes fail if one does; every process has to call this.

    Args:
        problem: of this process; empty if there is none.

    Raises:
        Refusal: with the first problem of any.
    """
    if problems := [said for said in gather_object([problem]) if said]:
        raise Refusal(problems[0])
