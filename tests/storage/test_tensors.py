import pytest
import torch
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.storage import tensors as module
from diffpo.storage.tensors import open_tensors, read_header

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.zeros(())}


def test_files_are_one_mapping_and_tensors_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 8)  # so that files are opened anew
    save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
    save_file({name: TENSORS[name] for name in "bc"}, tmp_path / "two.safetensors")
    found = open_tensors([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])
    assert set(found) == set(TENSORS)
    assert len(found) == 3
    assert "d" not in found
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_header_is_the_metadata_of_a_file(tmp_path):
    save_file(TENSORS, tmp_path / "with.safetensors", {"who": "we"})
    save_file(TENSORS, tmp_path / "without.safetensors")
    assert read_header(tmp_path / "with.safetensors") == {"who": "we"}
    assert read_header(tmp_path / "without.safetensors") == {}


def test_an_absent_and_a_broken_file_are_told_by_name(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file(TENSORS, two)
    with pytest.raises(Refusal, match="one.safetensors cannot be read as safetensors .*download it"):
        open_tensors([one, two])
    two.write_bytes(two.read_bytes()[:-1])
    with pytest.raises(Refusal, match="two.safetensors cannot be read"):
        open_tensors([two])
