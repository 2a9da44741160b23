import os
import signal
import subprocess
import threading
import time

import pytest

from diffpo.processes.stopping import SIGNALS, Stopped, end_at_once, end_in_order, hear_signals, leave_to_main
from diffpo.processes.workers import from_workers
from diffpo.storage.shared_work import shared_out


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def interrupted(*numbers: int, error: Exception | None = None) -> None:
    with end_in_order("It is kept."):
        for number in numbers:
            send(number)
        if error:
            raise error


@pytest.mark.parametrize("number", SIGNALS)
def test_work_ends_between_two_items(number, capfd):
    done = []

    def work() -> None:
        with end_in_order("It is kept.") as stop:
            for item in range(9):
                if item == 3:
                    send(number)
                done.append(item)
                stop.here()

    with pytest.raises(Stopped, match="kept") as stopped:
        work()
    assert (done, stopped.value.number, stopped.value.name) == ([0, 1, 2, 3], number, signal.Signals(number).name)
    assert f"{signal.Signals(number).name}: ending after the work in hand" in capfd.readouterr().err


def test_a_block_that_comes_to_its_end_first_stops_there():
    with pytest.raises(Stopped):
        interrupted(signal.SIGTERM)


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in SIGNALS]
    with end_in_order():
        pass
    with pytest.raises(Stopped), end_in_order():
        send()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_echo_of_a_launcher_is_no_second_signal():
    """A terminal sends Ctrl-C to all processes, and torchrun hands it on to those that it started."""
    with pytest.raises(Stopped) as stopped:
        interrupted(signal.SIGINT, signal.SIGTERM)
    assert stopped.value.number == signal.SIGINT


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once(number, code, monkeypatch):
    monkeypatch.setattr("diffpo.processes.stopping.ECHO", 0)
    child = os.fork()
    if not child:
        with end_in_order():
            send(number)
            time.sleep(0.01)
            send(number)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_an_error_of_a_block_that_was_to_end_is_that_end():
    """Another process has heard the signal first, and is gone."""
    error = RuntimeError("Connection closed by peer")
    with pytest.raises(Stopped, match="kept"):
        interrupted(signal.SIGTERM, error=error)
    with pytest.raises(RuntimeError, match="closed by peer"):
        interrupted(error=error)


def test_outside_of_orderly_work_a_signal_ends_the_program():
    with hear_signals(end_at_once), pytest.raises(Stopped):
        send()


def test_only_the_main_thread_hears_signals():
    found = []

    def work() -> None:
        with end_in_order() as stop:
            found.append(stop.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def test_what_was_found_before_a_signal_is_kept(tmp_path):
    given = []

    def found(numbers):
        for number in numbers:
            given.append(number)
            if number == 5 and given.count(5) == 1:
                send()
            yield {number: number**2}

    with pytest.raises(Stopped, match="the same command goes on with the rest"):
        shared_out([1, 2, 5, 7], found, 2, tmp_path, {}, "squares", "number")
    assert shared_out([1, 2, 5, 7], found, 2, tmp_path, {}, "squares", "number") == {1: 1, 2: 4, 5: 25, 7: 49}
    assert given == [1, 2, 5, 7]


class Slow:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, n: int) -> int:
        time.sleep(0.02)
        return os.getpid()


@pytest.mark.parametrize("number", SIGNALS)
def test_workers_leave_signals_to_the_main_process(number, capfd):
    items = from_workers(Slow(), 2, lambda: 8, batch_size=None)
    workers = {int(next(items)), int(next(items))}
    assert len(workers) == 2
    for worker in workers:
        subprocess.run(["kill", f"-{int(number)}", str(worker)], check=True)
    assert len(list(items)) == 4
    assert capfd.readouterr().err == ""


def test_a_worker_ends_when_its_main_process_says_so():
    """Once is enough: at its exit, python says it once and then waits."""
    read, ready = os.pipe()
    child = os.fork()
    if not child:
        leave_to_main()
        other = os.fork()
        if not other:
            os.kill(os.getppid(), signal.SIGTERM)  # as a signal to the whole group
            os._exit(0)
        os.waitpid(other, 0)
        os.write(ready, b"!")
        time.sleep(60)
        os._exit(1)
    assert os.read(read, 1) == b"!"
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
