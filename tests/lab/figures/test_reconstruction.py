import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import denoiser, draws, image_batch, pair_folder, saved
from torch import Tensor, nn

from diffpo.cli.command import launch
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.lab.figures import reconstruction


class Said:
    def __init__(self, sample: Tensor):
        self.sample = sample


class Slope(nn.Module):
    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Said:
        return Said(self.slope * x + 0.1)


def error(slope: float, **settings) -> float:
    inversion = PolicyInversion(**settings, jitter=False)
    return reconstruction.relative_errors(inversion, denoiser(Slope(slope)), image_batch(), draws()).mean().item()


def test_noise_that_does_not_depend_on_the_latent_is_taken_off_again():
    assert error(0.0, steps=4) < 1e-5


def test_more_steps_and_refinements_miss_less():
    plain = error(0.4, steps=5)
    assert error(0.4, steps=20) < 0.5 * plain
    assert error(0.4, steps=5, refinements=1) < 0.8 * plain
    assert error(0.4, steps=5, refinements=9, averaged=(8, 10)) < 1e-2 * plain


def test_one_step_back_takes_the_noise_that_is_predicted_off_the_latent():
    network, batch = denoiser(Slope(0.0)), image_batch()
    t = torch.full((3, 1), 999)
    noisy = network.noised(batch.latents, torch.full_like(batch.latents, 0.1), t[:, 0])
    torch.testing.assert_close(reconstruction.led_back(network, noisy, batch, t), batch.latents, rtol=1e-4, atol=1e-4)


def test_curves_are_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = [
        f"--output_dir={tmp_path / 'out'}",
        f"--base.path={saved(tmp_path / 'base')}",
        "--source=diffpo.data.PairFolder",
        f"--source.path={pair_folder(tmp_path / 'pairs')}",
        "--pairs=2",
        "--steps=[1,2]",
        "--most_calls=10",
    ]
    monkeypatch.setattr(sys, "argv", ["reconstruction.py", *arguments])
    launch(reconstruction.main)
    found = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert found["pictures"] == 4
    calls = [[row["calls"] for row in curve] for curve in found["curves"].values()]
    assert calls == [[1, 2], [2, 4], [2, 4], [5, 10], [10]]
    assert all(row["low"] <= row["error"] <= row["high"] <= row["worst"] for row in found["curves"].popitem()[1])
    assert Image.open(tmp_path / "out" / "reconstruction.png").size == (1000, 380)
