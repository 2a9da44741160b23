import pytest
import torch
from safetensors.torch import load_file, save_file

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.files import find_weight_files, locate_weights, write_sharded
from diffpo.storage.tensors import open_tensors, read_header

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.zeros(())}
SIZES = {"a": 24, "b": 8, "c": 4}


def test_what_is_written_in_one_file_is_read_back(tmp_path):
    write_sharded(TENSORS.__getitem__, SIZES, tmp_path, "w", 10**9, {"who": "we"})
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert read_header(tmp_path / "w.safetensors") == {"format": "pt", "who": "we"}
    found = open_tensors(find_weight_files(tmp_path, "w"))
    assert {**found}.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_shards_hold_what_fits_and_read_like_one_file(tmp_path):
    write_sharded(TENSORS.__getitem__, SIZES, tmp_path, "w", 13, {})
    files = find_weight_files(tmp_path, "w")
    assert [file.name for file in files] == ["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"]
    assert [set(load_file(file)) for file in files] == [{"a"}, {"b", "c"}]
    found = open_tensors(files)
    assert len(found) == 3
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_the_unet_of_a_pipeline_goes_before_what_is_beside_it(tmp_path):
    (tmp_path / "unet").mkdir()
    for folder in (tmp_path, tmp_path / "unet"):
        save_file(TENSORS, folder / "diffusion_pytorch_model.safetensors")
    assert find_weight_files(tmp_path) == [tmp_path / "unet" / "diffusion_pytorch_model.safetensors"]
    assert find_weight_files(tmp_path / "unet") == find_weight_files(tmp_path)
    assert find_weight_files(tmp_path, "other") == []


def test_what_is_nowhere_is_told(tmp_path):
    assert locate_weights(str(tmp_path), "w") == tmp_path
    with pytest.raises(Refusal, match="Cannot load weights from '.*nowhere': there is no such local path"):
        locate_weights(str(tmp_path / "nowhere"), "w")
