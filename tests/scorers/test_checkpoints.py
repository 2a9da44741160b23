import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.scorers.checkpoints import read_saved
from diffpo.storage.hub import locate_file

WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


def test_a_file_is_found_by_itself_and_by_its_folder(tmp_path):
    (tmp_path / "a.pt").touch()
    assert locate_file(str(tmp_path), "a.pt") == locate_file(str(tmp_path / "a.pt"), "other.pt") == tmp_path / "a.pt"


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_tensors_are_read_as_they_were_saved(tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    save_file(WEIGHTS, file) if kind == "safetensors" else torch.save(WEIGHTS, file)
    found = read_saved(str(tmp_path), file.name, None, "weights")
    assert found.keys() == WEIGHTS.keys()
    assert torch.equal(found["weight"], WEIGHTS["weight"])


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 cut off"])
def test_a_broken_download_is_refused_in_one_line(tmp_path, kind, content):
    (tmp_path / f"a.{kind}").write_bytes(content)
    with pytest.raises(Refusal, match=r"\A\S+ does not hold weights .*: it is damaged, or holds .*; fetch it again\Z"):
        read_saved(str(tmp_path), f"a.{kind}", None, "weights")


def test_code_in_a_file_does_not_run(tmp_path):
    torch.save(Path, tmp_path / "a.pt")
    with pytest.raises(Refusal, match="holds more than tensors"):
        read_saved(str(tmp_path), "a.pt", None, "weights")


def test_what_is_absent_is_named(tmp_path):
    with pytest.raises(Refusal, match="does not hold weights that can be read: there is no a.pt in it"):
        read_saved(str(tmp_path), "a.pt", None, "weights")
    with pytest.raises(Refusal, match="Cannot load weights from 'nobody/nothing'"):
        read_saved("nobody/nothing", "a.pt", None, "weights")


def test_random_bytes_are_refused_in_one_line(tmp_path):
    rng = random.Random(0)
    for _ in range(300):
        (tmp_path / "a.pt").write_bytes(rng.randbytes(rng.choice([1, 2, 8, 64])))
        with pytest.raises(Refusal, match="it is damaged, or holds more than tensors .*; fetch it again"):
            read_saved(str(tmp_path), "a.pt", None, "weights")
