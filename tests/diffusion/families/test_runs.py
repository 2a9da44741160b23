"""Runs of every family: taken up they end with the same bits, and checkpointed activations change nothing."""

import os
import signal
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny import pair_folder, trained
from tiny_families import chroma, flux, flux2, klein, pixart, qwen_image, sana, sd3, z_image
from tiny_runs import in_process, weights
from torch import Tensor

from diffpo.data.layouts import PairFolder
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import ImagePairs, PairData
from diffpo.diffusion.families.chroma import Chroma
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.families.flux2 import Flux2
from diffpo.diffusion.families.flux2_klein import Flux2Klein
from diffpo.diffusion.families.pixart_sigma import PixArtSigma
from diffpo.diffusion.families.qwen_image import QwenImage
from diffpo.diffusion.families.sana import Sana
from diffpo.diffusion.families.sd3 import SD3
from diffpo.diffusion.families.z_image import ZImage
from diffpo.diffusion.model.loading import LoadedStableDiffusion, StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.space import OutputSpace
from diffpo.losses.logistic import Sigmoid
from diffpo.train.fit import fit
from diffpo.train.run import FitConfig, open_run

CASES: dict[str, tuple[Family, Callable[[], Any]]] = {
    "SD3": (SD3(length=8), lambda: sd3(with_t5=False)),
    "FLUX.1": (Flux(length=32), flux),
    "FLUX.2 klein": (Flux2Klein(layers=(1, 2, 3), length=32), klein),
    "FLUX.2 dev": (Flux2(layers=(1, 2, 3), length=256), flux2),
    "Chroma": (Chroma(length=32), chroma),
    "Qwen-Image": (QwenImage(), qwen_image),
    "Z-Image": (ZImage(), z_image),
    "Sana": (Sana(length=32), sana),
    "PixArt-Sigma": (PixArtSigma(length=32), pixart),
}
OBJECTIVE = DenoisingPreference(Sigmoid(500.0), space=OutputSpace())


@pytest.fixture(scope="module", params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def root(name, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    CASES[name][1]().save_pretrained(root / "base")
    pair_folder(root / "pairs", n=4)
    return root


def load(family: Family, root: Path, **settings: Any) -> tuple[LoadedStableDiffusion, ImagePairs]:
    model = StableDiffusion(str(root / "base"), family=family, **settings).load()
    return model, PairData(PairFolder(str(root / "pairs")), framing=Framing(64), workers=0).open(0)


def run(name: str, root: Path, out: Path, steps: int, resume: str | None = None, kill: int | None = None) -> Tensor:
    """The weights of a network that is trained whole, and their moving average; dies before a micro-batch if told."""
    model, pairs = load(CASES[name][0], root)
    calls: list[None] = []

    def prepare(*args: Any) -> Any:
        if len(calls) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(None)
        return model.prepare(*args)

    counts = {"steps": steps, "batch_size": 2, "per_device_batch_size": 1, "save_every": 1, "log_every": 9}
    config = FitConfig(**counts, schedule="constant", ema=0.5)
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)  # noqa: E731
    opened = open_run(config, out, 0, resume, "seed: 0")
    fit(OBJECTIVE, model.network, model.reference(), pairs, prepare, optimizer, opened)
    return weights(model.network)


def run_and_keep(name: str, root: Path, out: Path, resume: str | None, kill: int | None) -> None:
    save_file({"final": run(name, root, out, 2, resume, kill)}, out / "final.safetensors")


def test_a_run_that_is_taken_up_ends_with_the_same_bits(name, root, tmp_path):
    straight = run(name, root, tmp_path / "straight", 2)
    half = run(name, root, tmp_path / "halves", 1)
    assert torch.equal(run(name, root, tmp_path / "halves", 2, "latest"), straight)
    assert not torch.equal(half, straight)
    if name == "SD3":
        assert in_process(run_and_keep, name, root, tmp_path / "killed", None, 3) == -signal.SIGKILL
        assert in_process(run_and_keep, name, root, tmp_path / "killed", "latest", None) == 0
        assert torch.equal(load_file(tmp_path / "killed" / "final.safetensors")["final"], straight)


def test_compiled_blocks_change_nothing_beyond_rounding(tmp_path, monkeypatch):
    """By the backend that traces forward and backward as compiling does and then runs torch's own kernels: compiled
    ones need a C++ compiler. The reference, with the adapters off, is another trace."""
    compiled = partialmethod(FluxTransformer2DModel.compile_repeated_blocks, backend="aot_eager")
    monkeypatch.setattr(FluxTransformer2DModel, "compile_repeated_blocks", compiled)
    flux().save_pretrained(tmp_path / "base")
    pair_folder(tmp_path / "pairs", n=2)
    loss, slopes = gradient(CASES["FLUX.1"][0], tmp_path)
    again, traced = gradient(CASES["FLUX.1"][0], tmp_path, compile=True)
    assert again == pytest.approx(loss, rel=1e-6)
    assert slopes.norm() > 0
    torch.testing.assert_close(traced, slopes, rtol=1e-4, atol=1e-5 * slopes.abs().max().item())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1


def gradient(family: Family, root: Path, **settings: Any) -> tuple[float, Tensor]:
    """Loss and gradient of a LoRA on the first pairs."""
    model, pairs = load(family, root, adapter=LoRA(rank=2), **settings)
    trained(model.network, 0.01)
    batch, draws = model.first(pairs, 2)
    loss = OBJECTIVE(model.denoiser, model.reference(), batch, draws).loss
    loss.backward()
    found = [p.grad.flatten() for p in model.network.parameters() if p.grad is not None]
    return loss.item(), torch.cat(found)


def test_checkpointed_activations_change_nothing(name, root):
    loss, slopes = gradient(CASES[name][0], root)
    again, frugal = gradient(CASES[name][0], root, gradient_checkpointing=True)
    assert again == pytest.approx(loss, rel=1e-6)
    assert slopes.norm() > 0
    torch.testing.assert_close(frugal, slopes, rtol=1e-4, atol=1e-5 * slopes.abs().max().item())
