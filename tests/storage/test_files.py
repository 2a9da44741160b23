import errno
import os
import random
import resource
import shutil
import signal
from multiprocessing import get_context

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffpo.core.refusal import Refusal
from diffpo.storage.files import (
    name_failed_writes,
    remedy_of,
    require_folder,
    require_name,
    sort_metadata,
    tell_failed_writes,
)

WRITERS = {
    "text": lambda file: file.write_text("x" * 200),
    "tensors": lambda file: save_file({"x": torch.zeros(100)}, file),
}


def fill(folder, told) -> None:
    """No file can outgrow 100 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    told.send({name: said(write, folder / name) for name, write in WRITERS.items()})


def as_nobody(folder, told) -> None:
    """Root may write everywhere."""
    os.setegid(65534)
    os.seteuid(65534)
    told.send({name: said(write, folder / name) for name, write in WRITERS.items()})


def said(write, file) -> str:
    with pytest.raises(Refusal) as caught, name_failed_writes(file.name, "the rest is untouched"):
        write(file)
    return str(caught.value)


def elsewhere(target, folder) -> dict[str, str]:
    told, end = get_context("fork").Pipe()
    process = get_context("fork").Process(target=target, args=(folder, end))
    process.start()
    assert told.poll(60)
    process.join()
    return told.recv()


def test_a_full_disk_is_one_line_that_says_what_and_how_to_go_on(tmp_path):
    for name, line in elsewhere(fill, tmp_path).items():
        assert line.startswith(f"{name} could not be written (")
        assert line.endswith("). Make room there (or choose another folder); the rest is untouched.")
        assert "\n" not in line


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_was_removed_does_not_ask_for_room(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.rmtree(folder)
    line = said(WRITERS[name], folder / name)
    assert line.endswith("). Something removed its folder while this ran; find out what; the rest is untouched.")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right away that only root has")
def test_a_missing_right_does_not_ask_for_room(tmp_path):
    tmp_path.chmod(0o755)
    for line in elsewhere(as_nobody, tmp_path).values():
        assert "ermission denied" in line
        assert ". Get the right to write there (or choose another folder); the rest" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right away that only root has")
def test_a_folder_that_is_not_ours_to_read_is_told(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    told, end = get_context("fork").Pipe()
    process = get_context("fork").Process(target=read_as_nobody, args=(tmp_path / "closed", end))
    process.start()
    assert told.poll(60)
    assert "closed, which was named as pairs, is not ours to read; get the right to" in told.recv()
    process.join()


def read_as_nobody(folder, told) -> None:
    os.setegid(65534)
    os.seteuid(65534)
    with pytest.raises(Refusal) as caught:
        require_folder(folder, "pairs")
    told.send(str(caught.value))


def test_a_file_where_a_folder_is_needed_is_named_as_such(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            Refusal, match=r"x could not be written \(.*exists.*\)\. Something of another kind is called so"
        ),
        name_failed_writes("x"),
    ):
        (tmp_path / "file").mkdir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("words", ["[Errno {}] of the system", "I/O error: x (os error {})"])
def test_whatever_says_that_the_disk_is_full_asks_for_room(number, words):
    error = OSError(number, "x") if "Errno" in words else RuntimeError(words.format(number))
    assert remedy_of(error, "Free some") == "Free some"


def test_an_error_of_another_kind_leaves_the_disk_in_doubt():
    assert remedy_of(OSError(errno.EIO, "Input/output error"), "Room") == "Room, unless the disk itself fails"
    assert remedy_of(None, "Room") == "Room"


def test_torch_tells_of_a_removed_folder_in_its_own_words(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        torch.save({}, tmp_path / "gone" / "file")
    assert remedy_of(caught.value).startswith("Something removed its folder")


def test_other_errors_pass():
    with pytest.raises(KeyError), name_failed_writes("x", "y"):
        raise KeyError


def test_what_is_about_work_that_is_done_is_only_told(caplog):
    with tell_failed_writes("The card"):
        raise OSError(28, "No space left on device")
    assert "The card could not be written ([Errno 28] No space left on device); all else goes on." in caplog.text
    with pytest.raises(KeyError), tell_failed_writes("The card"):
        raise KeyError


def test_a_folder_to_be_read_is_there_and_a_folder(tmp_path):
    require_folder(tmp_path, "a folder of pairs")
    with pytest.raises(Refusal, match=f"There is no {tmp_path}/x, which was named as a folder of pairs; check the sp"):
        require_folder(tmp_path / "x", "a folder of pairs")
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="file is a file and was named as a folder of pairs; name the folder"):
        require_folder(str(tmp_path / "file"), "a folder of pairs")


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    """Twenty times: without, one of two orders of the metadata comes by chance."""
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2, dtype=torch.float16)}
    metadata = {"format": "pt", "Größe": '{"a": "\\n\\u00e9 \n\t\x01 \U0001f600 </"}', "a" * 50: ""}
    written = set()
    for number in range(20):
        file = tmp_path / f"{number}.safetensors"
        save_file(tensors, file, metadata)
        sort_metadata(file)
        written.add(file.read_bytes())
    assert len(written) == 1
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(file).items())
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == metadata
        assert list(opened.keys()) == ["a", "b"]


NAMES = ["a", "base", "SD 1.5", "npo-0", "größer", "0.5_b", "a+b", "constant", "com", "comet", "nul_model"]
NO_NAMES = ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".x", "a.", "a ", " a", "a:b", "a\nb", "a\x00", "x" * 101]
NO_NAMES += ["ü" * 51, "\ud800", "CON", "con", "nul.txt", "COM1", "lpt9.a.b", "a*", "a?", 'a"', "<a>", "a|b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_any_system_takes_is_a_folders_name(name, tmp_path):
    require_name(name, "a model", taken=("report.json",))
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_some_system_does_not_take_is_refused(name):
    with pytest.raises(Refusal, match="cannot be the name of a model, which a folder gets too; take letters"):
        require_name(name, "a model")


@pytest.mark.parametrize("name", ["report.json", "Report.JSON"])
def test_a_name_that_is_taken_is_refused_in_any_case(name):
    with pytest.raises(Refusal, match="'.*' cannot be the name of a model: something else is called so there"):
        require_name(name, "a model", taken=("config.yaml", "report.json"))


def test_random_texts_are_refused_or_stay_in_their_folder(tmp_path):
    rng = random.Random(0)
    for number in range(2000):
        name = "".join(rng.choices("ab./\\: -\x07\u00e9\ud8ff", k=rng.randint(0, 6)))
        try:
            require_name(name, "a model")
        except Refusal:
            continue
        folder = tmp_path / str(number) / name
        folder.mkdir(parents=True)
        assert folder.resolve().parent == (tmp_path / str(number)).resolve()
