import sys

import pytest
import tiny

from diffpo.cli.command import launch
from diffpo.commands import mix_negative


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    tiny.unet().save_pretrained(root / "base" / "unet")
    tiny.moved(tiny.unet(), seed=1).save_pretrained(root / "good" / "unet")
    tiny.unet(cross_attention_dim=24).save_pretrained(root / "wide" / "unet")
    return root


def script(world, monkeypatch, output_dir, negative: str, *more: str) -> None:
    arguments = [f"--base={world / 'base'}", f"--negative={world / negative}", f"--output_dir={output_dir}", *more]
    monkeypatch.setattr(sys, "argv", ["mix_negative.py", *arguments])
    launch(mix_negative.main)


def test_the_script_says_what_it_wrote(world, tmp_path, monkeypatch, capsys):
    script(world, monkeypatch, tmp_path / "out", "good", "--mix=0")
    n = len(tiny.unet().state_dict())
    assert capsys.readouterr().out == f"{tmp_path}/out/unet: {n} tensors, |theta_neg - theta| / |theta| = 0\n"


def test_a_difference_in_half_precision(world, tmp_path, monkeypatch, capsys):
    script(world, monkeypatch, tmp_path / "out", "good", "--difference=true", "--dtype=fp16", "--shard_size=0.5")
    assert f"{tmp_path}/out/difference.safetensors: " in capsys.readouterr().out
    floats = sum(tensor.numel() for tensor in tiny.unet().state_dict().values())
    assert 2 * floats < (tmp_path / "out" / "difference.safetensors").stat().st_size < 3 * floats


def test_scales_outside_the_published_range_are_told_and_used(world, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match=r"mix is 2; the published range is \[0, 1\]"):
        script(world, monkeypatch, tmp_path / "out", "good", "--mix=2")
    assert (tmp_path / "out" / "unet" / "config.json").exists()


def test_another_architecture_is_told_in_a_line(world, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        script(world, monkeypatch, tmp_path / "out", "wide")
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "wide is for another architecture: its " in error
    assert error.count("\n") == 1
