import json
import os
from collections import namedtuple

import pytest

from diffpo.core.refusal import Refusal
from diffpo.storage import job_folder as workfolder
from diffpo.storage.job_folder import JobFolder, tell_result


@pytest.fixture
def work(tmp_path):
    folder = JobFolder(tmp_path / "out", "summary.json", ".working", ".arrow")
    folder.require_ours()
    folder.unfinished.mkdir(parents=True)
    return folder


def test_an_empty_folder_and_one_of_ours_are_taken(work):
    work.require_ours()


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(Refusal, match="is not empty: it holds letter.txt, which no working has left there"):
        JobFolder(tmp_path, "summary.json", ".working", ".arrow").require_ours()


def test_a_folder_is_kept_from_other_programs_while_it_is_filled(work):
    work.finished({})
    child = os.fork()
    if not child:
        try:
            JobFolder(work.path, "summary.json", ".working", ".arrow").finished({})
        except Refusal:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_folder_of_other_work_of_ours_is_refused(work):
    work.finish({"seed": 0}, [])
    with pytest.raises(Refusal, match="it holds files.json, summary.json, which no scoring has left there; choose"):
        JobFolder(work.path, "scores.json", ".scoring", ".parquet").require_ours()


def test_results_count_as_there_before_and_after_the_end_but_not_half_written(work):
    (work.unfinished / "a.arrow").write_text("a")
    (work.unfinished / "b.unfinished").write_text("b")
    (work.unfinished / "c.arrow").write_text("c")
    work.keep("a.arrow", "c.arrow")
    (work.unfinished / "c.arrow").rename(work.path / "c.arrow")
    assert work.missing(["a.arrow", "b.arrow", "c.arrow"]) == ["b.arrow"]


def test_finishing_leaves_results_and_summary_alone(work):
    (work.unfinished / "a.arrow").write_text("a")
    (work.unfinished / "b.unfinished").write_text("b")
    assert work.finished({"seed": 0}) is None
    work.finish({"seed": 0, "count": 1}, ["a.arrow"])
    assert sorted(path.name for path in work.path.iterdir()) == ["a.arrow", "files.json", "summary.json"]
    assert work.finished({"seed": 0}) == json.loads((work.path / "summary.json").read_text())
    with pytest.raises(Refusal, match="seed was 0 and is 1"):
        work.finished({"seed": 1})


def test_what_is_there_already_needs_no_room(work, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(workfolder.shutil, "disk_usage", lambda folder: usage(free=100))
    with pytest.raises(Refusal, match="The shards need about 0.00 GiB, the disk of .*out has 0.00 GiB free"):
        work.require_room("The shards", 150)
    (work.unfinished / "a.arrow").write_bytes(bytes(60))
    work.require_room("The shards", 150)


def test_unfinished_work_goes_on_if_it_is_the_same_and_is_refused_if_not(work):
    for rank in range(2):
        work.begin({"seed": 0}, rank)
    with pytest.raises(Refusal, match="seed was 0 and is 1; choose another output_dir"):
        work.begin({"seed": 1})


def test_settings_go_beside_what_was_made_and_stay_beside_what_was_there(tmp_path, capsys):
    tell_result(tmp_path, False, "seed: 1", "scored", "3 pairs.")
    assert capsys.readouterr().out == "3 pairs.\n"
    tell_result(tmp_path, True, "seed: 2", "scored", "3 pairs.")
    assert capsys.readouterr().out == f"{tmp_path} was finished already, nothing was scored.\n3 pairs.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "seed: 1"


def test_settings_that_a_kill_kept_from_what_was_made_are_written_by_the_next_command(tmp_path):
    tell_result(tmp_path, True, "seed: 1", "scored", "3 pairs.")
    assert (tmp_path / "config.yaml").read_text() == "seed: 1"
