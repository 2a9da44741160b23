import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from signals import send_once, slow_to_end

from diffpo.core.refusal import Refusal
from diffpo.processes.children import Children
from diffpo.processes.stopping import Stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_programs_whose_end_is_waited_for_and_no_other_one_is_started(tmp_path, number, capfd):
    programs, names = Children(), [tmp_path / name for name in "abc"]
    sender = send_once(number, tmp_path / "a" / "begun", tmp_path / "b" / "begun")

    def work() -> None:
        with programs.heard(), ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: programs.run(slow_to_end(name)), names))

    with pytest.raises(Stopped, match="the same command goes on") as stopped:
        work()
    sender.join()
    assert stopped.value.number == number
    left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("*/*"))
    assert left == ["a/begun", "a/ended", "b/begun", "b/ended"]
    told = f"{signal.Signals(number).name}: handed on to 2 programs, which end after the work in hand."
    assert told in capfd.readouterr().err


def test_a_signal_between_two_programs_stops_before_the_next(tmp_path):
    programs = Children()

    def work() -> None:
        with programs.heard():
            programs.run([sys.executable, "-S", "-c", ""])
            os.kill(os.getpid(), signal.SIGTERM)
            programs.run(slow_to_end(tmp_path / "a"))

    with pytest.raises(Stopped) as stopped:
        work()
    assert stopped.value.number == signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_signal_that_no_program_follows_stops_at_the_end_of_the_block():
    with pytest.raises(Stopped), Children().heard():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_program_that_fails_is_told_in_a_line_that_names_its_log(tmp_path):
    command = [sys.executable, "-S", "-c", "print('no room'); raise SystemExit(3)"]
    with pytest.raises(Refusal, match=rf"ended with 3; {tmp_path}/log.txt says why. Mend that, then run the same"):
        Children().run(command, log=tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "no room\n"


def test_a_log_is_added_to_and_the_environment_is_the_given_one(tmp_path):
    command = [sys.executable, "-S", "-c", "import os; print(os.environ.get('WHO'))"]
    for who in "ab":
        Children().run(command, log=tmp_path / "log.txt", environment=os.environ | {"WHO": who})
    assert (tmp_path / "log.txt").read_text() == "a\nb\n"
