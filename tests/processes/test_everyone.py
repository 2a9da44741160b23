from functools import partial

import pytest
from tiny_runs import check_on_main, together

from diffpo.core.refusal import Refusal
from diffpo.processes.everyone import fail_together, on_main


def refuse(said: str) -> None:
    raise Refusal(said)


def test_what_the_main_process_refuses_is_refused():
    with pytest.raises(Refusal, match="it is full"):
        on_main(partial(refuse, "it is full"))
    on_main(lambda: None)


def test_no_problem_is_none():
    fail_together("")
    with pytest.raises(Refusal, match="^mine$"):
        fail_together("mine")


def test_all_processes_hear_what_one_of_them_found(tmp_path):
    assert together(2, check_on_main, tmp_path) == [0, 0]
    assert [(tmp_path / f"said-{rank}").read_text() for rank in (0, 1)] == ["main: no; rank 1: no"] * 2
