import json
import resource
import signal
from multiprocessing import get_context

import pytest
from damage import DAMAGES

from diffpo.core.refusal import Refusal
from diffpo.storage.ledger import Ledger, write_json

WHO = {"scorer": "brightness", "raw": False}


def test_results_are_there_when_the_same_work_is_opened_again(tmp_path):
    ledger = Ledger(tmp_path / "l", WHO)
    assert ledger.done == {}
    ledger.add({3: 0.5, 7: None})
    ledger.add({4: {"a": 0.1}})
    assert ledger.done == {3: 0.5, 7: None, 4: {"a": 0.1}}
    assert Ledger(tmp_path / "l", WHO).done == ledger.done


def test_numbers_come_back_bit_for_bit(tmp_path):
    third = 1 / 3
    Ledger(tmp_path, WHO).add({0: third})
    assert Ledger(tmp_path, WHO).done == {0: third}


def test_each_process_writes_its_own_file_and_any_number_of_them_goes_on(tmp_path):
    for rank in (0, 1, 2):
        Ledger(tmp_path, WHO, rank).add({rank: rank})
    assert sorted(path.name for path in tmp_path.glob("part-*")) == [f"part-0000{rank}.jsonl" for rank in (0, 1, 2)]
    assert Ledger(tmp_path, WHO).done == {0: 0, 1: 1, 2: 2}
    assert list(tmp_path.glob("*.unfinished")) == []


def test_lines_of_another_ledger_are_found_anew_and_told(tmp_path, caplog):
    for name, seed in (("mine", 0), ("other", 1)):
        Ledger(tmp_path / name, {**WHO, "seed": seed}).add({1: 0.5 + seed})
    (tmp_path / "other" / "part-00000.jsonl").replace(tmp_path / "mine" / "part-00000.jsonl")
    assert Ledger(tmp_path / "mine", {**WHO, "seed": 0}).done == {}
    assert "1 of 1 lines of" in caplog.text


@pytest.mark.parametrize("torn", ["[2, 0.", "[2, 0.25]"])
def test_a_torn_last_line_is_forgotten_and_does_not_spoil_the_next(tmp_path, torn):
    """Also one that happens to be whole but for its end of line: 0.25 may have been 0.253."""
    Ledger(tmp_path, WHO).add({1: 0.5})
    with (tmp_path / "part-00000.jsonl").open("a") as lines:
        lines.write(torn)
    assert Ledger(tmp_path, WHO, rank=1).done == {1: 0.5}
    again = Ledger(tmp_path, WHO)
    assert again.done == {1: 0.5}
    again.add({2: 0.75})
    assert Ledger(tmp_path, WHO).done == {1: 0.5, 2: 0.75}


def test_other_work_in_the_same_folder_is_refused_and_the_difference_named(tmp_path):
    Ledger(tmp_path, WHO)
    with pytest.raises(Refusal, match=r"results of something else: raw was False and is True; choose another"):
        Ledger(tmp_path, {**WHO, "raw": True})
    with pytest.raises(Refusal, match=r"seed was None and is 1"):
        Ledger(tmp_path, {**WHO, "seed": 1})


def test_an_identity_is_compared_as_it_is_stored(tmp_path):
    """A tuple comes back from JSON as a list."""
    Ledger(tmp_path, {"size": (1, 2)})
    assert Ledger(tmp_path, {"size": (1, 2)}).done == {}


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def fill(folder, told) -> None:
    """No file can outgrow 100 bytes."""
    ledger = Ledger(folder, {})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        ledger.add({row: 0.123456789 for row in range(20)})
    except Refusal as error:
        told.send(str(error))


def test_a_full_disk_is_one_line_and_what_was_written_counts(tmp_path):
    told, end = get_context("fork").Pipe()
    process = get_context("fork").Process(target=fill, args=(tmp_path, end))
    process.start()
    process.join(60)
    assert told.poll()
    line = told.recv()
    assert "part-00000.jsonl could not be written" in line
    assert "the same command then goes on where it stopped" in line
    done = Ledger(tmp_path, {}).done
    assert 0 < len(done) < 20
    assert set(done.values()) == {0.123456789}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_to_a_part_changes_a_result(tmp_path, damage, seed):
    ledger = Ledger(tmp_path, WHO)
    for row in range(5):
        ledger.add({row: {"a": row / 3, "b": "ü"}})
    DAMAGES[damage](ledger.file, seed)
    found = Ledger(tmp_path, WHO).done
    assert all(found[row] == ledger.done[row] for row in found)
    again = Ledger(tmp_path, WHO)
    again.add({row: ledger.done[row] for row in range(5)})
    assert Ledger(tmp_path, WHO).done == ledger.done


def test_damaged_lines_are_told_once_and_taken_out(tmp_path, caplog):
    ledger = Ledger(tmp_path, WHO, rank=1)
    ledger.add({1: 0.125, 2: 0.25, 3: 0.5})
    ledger.file.write_text(ledger.file.read_text().replace("0.25", "0.75"))
    assert Ledger(tmp_path, WHO).done == {1: 0.125, 3: 0.5}
    assert f"1 of 3 lines of {ledger.file} are damaged or of another ledger" in caplog.text
    caplog.clear()
    assert Ledger(tmp_path, WHO).done == {1: 0.125, 3: 0.5}
    assert not caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_results_of_which_nothing_tells_what_they_are_of_are_refused(tmp_path, damage):
    Ledger(tmp_path, WHO).add({1: 0.5})
    DAMAGES[damage](tmp_path / "identity.json", 3)
    with pytest.raises(Refusal, match=r"identity.json|something else") as refused:
        Ledger(tmp_path, WHO)
    assert "\n" not in str(refused.value)
