import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid
from diffpo.train.report.forecast import computes_bf16, is_far, tell_length, tell_needs, tell_trained, warn
from diffpo.train.run import FitConfig

MILLION = 2**20


class Weights(nn.Module):
    """A network of a MiB of fp32."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(MILLION // 4))


def gib(text: str, word: str) -> float:
    found = re.search(rf"{word} .*?([\d.e-]+) GiB", text)
    assert found
    return float(found[1]) * 2**30


def test_memory_is_weights_moments_gradients_copy_and_average():
    fit = FitConfig(steps=1, save_every=None)
    plain = gib(tell_needs(Weights(), [], 0, fit, Path()), "memory")
    assert plain == pytest.approx(4 * MILLION, rel=0.01)
    copied = gib(tell_needs(Weights(), [], 2, fit, Path()), "memory")
    assert copied - plain == pytest.approx(MILLION / 2, rel=0.03)
    averaged = gib(tell_needs(Weights(), [], 0, FitConfig(steps=1, ema=0.9), Path()), "memory")
    assert averaged - plain == pytest.approx(MILLION, rel=0.03)
    beside = gib(tell_needs(Weights(), [Weights()], 0, fit, Path()), "memory")
    assert beside - plain == pytest.approx(MILLION, rel=0.03)


def test_a_step_that_was_counted_brings_its_gradients_itself():
    fit = FitConfig(steps=1)
    said = tell_needs(Weights(), [], 0, fit, Path(), step=7 * MILLION)
    assert gib(said, "memory") == pytest.approx(10 * MILLION, rel=0.01)
    assert "come activations" not in said
    assert "come activations" in tell_needs(Weights(), [], 0, fit, Path())


def test_disk_is_that_of_checkpoints_as_fit_counts_them():
    said = tell_needs(Weights(), [], 0, FitConfig(steps=1, ema=0.9, keep=4), Path("not/there/yet"))
    assert "5 checkpoints" in said
    assert gib(said, "checkpoints of") == pytest.approx(4 * MILLION, rel=0.01)
    assert "not/there" not in said


def test_a_disk_without_room_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": MILLION}))
    with pytest.raises(Refusal, match="do not fit on the disk"):
        tell_needs(Weights(), [], 0, FitConfig(steps=1), Path())


def test_epochs_are_told_of_a_table_alone():
    accelerator = Accelerator()
    assert "2.00 epochs of 64 pairs" in tell_length(FitConfig(steps=2), 64, accelerator)
    assert "from a stream" in tell_length(FitConfig(steps=2), None, accelerator)
    with pytest.raises(Refusal, match="how long an epoch is"):
        tell_length(FitConfig(epochs=1.0), None, accelerator)


def test_the_method_is_named_as_a_config_names_it():
    said = tell_trained(DenoisingPreference(loss=Sigmoid()), "here", None, Weights(), FitConfig(steps=1, ema=0.5))
    assert "diffpo.diffusion.DenoisingPreference with diffpo.losses.Sigmoid" in said
    assert "here: all its weights, 262,144 trainable of 262,144 parameters, of which a moving average (0.5)" in said


def test_sizes_are_far_from_one_and_a_half_times_on():
    assert is_far(768, 512)
    assert is_far(512, 768)
    assert not is_far(640, 512)


def test_bf16_is_asked_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not computes_bf16(torch.device("cuda"))
    [said] = warn(torch.device("cuda"), torch.bfloat16, 0)
    assert "mixed_precision fp16" in said
    assert not list(warn(torch.device("cuda"), torch.float16, 0))
