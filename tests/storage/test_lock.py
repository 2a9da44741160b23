import errno
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import time
from contextlib import suppress

import pytest
from damage import DAMAGES

from diffpo.core.refusal import Refusal
from diffpo.storage.lock import LOCK, Lock, begun_by, take_lock


def elsewhere(work) -> str:
    """What a Refusal in another process says."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
            os.write(write, b"taken")
        except Refusal as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        return said.read()


def test_a_folder_is_taken_by_one_process_which_is_named(tmp_path):
    mine = take_lock(tmp_path / "run", "training")
    said = elsewhere(lambda: take_lock(tmp_path / "run", "training"))
    who = f"process {os.getpid()} on {socket.gethostname()} (training since "
    assert said.startswith(f"{tmp_path}/run is in use by {who}")
    assert said.endswith("); wait for it, or choose another output_dir.")
    assert elsewhere(lambda: take_lock(tmp_path / "other", "training")) == "taken"
    mine.release()
    assert elsewhere(lambda: take_lock(tmp_path / "run", "training")) == "taken"


def test_a_process_has_a_folder_once_and_lets_go_of_it_when_it_is_forgotten(tmp_path):
    mine = take_lock(tmp_path, "training")
    assert take_lock(tmp_path, "training") is mine
    del mine
    gc.collect()
    assert elsewhere(lambda: take_lock(tmp_path, "training")) == "taken"


def test_a_killed_process_lets_go_though_those_that_it_forked_live_on(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        mine = take_lock(tmp_path, "training")
        worker = os.fork()
        if not worker:
            signal.pause()
        os.write(write, str(worker).encode())
        signal.pause()
        mine.release()
    worker = int(os.read(read, 99))
    try:
        assert "is in use by process" in elsewhere(lambda: take_lock(tmp_path, "training"))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert elsewhere(lambda: take_lock(tmp_path, "training")) == "taken"
    finally:
        os.kill(worker, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_of_many_that_start_at_once_one_is_let_in(tmp_path):
    gate, opened = os.pipe()
    children = []
    for _ in range(8):
        children.append(os.fork())
        if not children[-1]:
            try:
                mine = take_lock(tmp_path / "new" / "run", "training")
                os.read(gate, 1)  # until all others have tried
                mine.release()
                os._exit(0)
            except Refusal:
                os._exit(7)
    codes = {}
    while len(codes) < 8:
        for child in children:
            pid, status = os.waitpid(child, os.WNOHANG) if child not in codes else (0, 0)
            codes |= {pid: os.waitstatus_to_exitcode(status)} if pid else {}
        if len(codes) == 7:
            assert set(codes.values()) == {7}
            os.write(opened, b"!")
        time.sleep(0.01)
    assert sorted(codes.values()) == [0] + [7] * 7


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "unet", "checkpoint-000006.bak", "data.parquet"])
def test_a_folder_of_others_is_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(Refusal, match=f"is not empty: it holds {name}, which no training has left there; choose"):
        take_lock(tmp_path, "training")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_many_files_of_others_are_counted(tmp_path):
    for name in "abcdef":
        (tmp_path / name).touch()
    with pytest.raises(Refusal, match="it holds a, b, c and 3 more, which"):
        take_lock(tmp_path, "training")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(Refusal, match="run is a file; choose another output_dir"):
        take_lock(tmp_path / "run", "training")


def test_other_work_of_ours_is_refused_too(tmp_path):
    take_lock(tmp_path, "training").release()
    (tmp_path / "config.yaml").touch()
    with pytest.raises(Refusal, match="holds training, not evaluation; choose another output_dir"):
        take_lock(tmp_path, "evaluation")
    take_lock(tmp_path, "training")


def test_what_such_work_has_left_may_be_known_by_its_files(tmp_path):
    (tmp_path / "scores.json").touch()
    take_lock(tmp_path, "scoring", lambda names: "scores.json" in names)
    assert begun_by(tmp_path) == "scoring"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lock_tells_nothing_and_locks_all_the_same(tmp_path, damage):
    take_lock(tmp_path, "training").release()
    DAMAGES[damage](tmp_path / LOCK, 3)
    mine = take_lock(tmp_path, "training", lambda names: True)
    assert "is in use by" in elsewhere(lambda: take_lock(tmp_path, "training"))
    mine.release()


@pytest.mark.parametrize("room", [0, 18])
def test_a_full_disk_leaves_nobody_in_doubt_who_began_a_folder(tmp_path, room):
    """Neither the first time, when nothing is there yet, nor when the work goes on."""
    for kind in ("", "training"):
        said = elsewhere(lambda: take_with_little_room(tmp_path, room))
        assert said.endswith("Make room there (or choose another folder); the same command then goes on.")
        assert f"{LOCK} could not be written ([Errno " in said
        assert begun_by(tmp_path) == (kind or None)
        take_lock(tmp_path, "training").release()
    (tmp_path / "config.yaml").touch()
    take_lock(tmp_path, "training").release()


def take_with_little_room(folder, room: int) -> None:
    """Of what is to be written only the first bytes find room; what is overwritten needs none."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    there = (folder / LOCK).stat().st_size if (folder / LOCK).exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (there + room, resource.RLIM_INFINITY))
    time.strftime = lambda shape: "a time that takes much more room than those before"
    take_lock(folder, "training")


def test_what_the_lock_says_may_be_nonsense(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps([1, 2]))
    assert begun_by(tmp_path) is None


def test_where_there_are_no_locks_that_is_told(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    take_lock(tmp_path, "training")
    assert "cannot be locked ([Errno 37] No locks available); see that no other program writes there" in caplog.text


def test_one_can_wait_for_a_folder(tmp_path):
    mine, child = Lock(tmp_path), os.fork()
    if not child:
        waiting = Lock(tmp_path, wait=True)
        (tmp_path / "after").touch()
        waiting.release()
        os._exit(0)
    assert not (tmp_path / "after").exists()
    mine.release()
    os.waitpid(child, 0)
    assert (tmp_path / "after").exists()
