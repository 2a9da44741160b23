"""How exactly inverted pictures are drawn again: error against steps and network calls, with and without ReNoise.

python scripts/figures.py reconstruction --output_dir runs/reconstruction

Pictures are encoded, walked to the noisiest time (diffpo.diffusion.objective.inversion), and led back by deterministic
DDIM on the same grid. Few steps miss more; ReNoise (arXiv:2403.14602) predicts again where a step has led to.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.data.layouts import PickAPic
from diffpo.data.source import Source
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.objective.inversion import Inversion, PolicyInversion
from diffpo.evaluation.win_rates import bootstrap_interval
from diffpo.lab.figures.reconstruction_plot import plot_reconstruction

WAYS = {
    "plain DDIM inversion": PolicyInversion(jitter=False),
    "1 refinement, mean of both (SmPO)": PolicyInversion(refinements=1, jitter=False),
    "1 refinement, taken alone": PolicyInversion(refinements=1, averaged=(1, 2), jitter=False),
    "4 refinements, mean of all": PolicyInversion(refinements=4, jitter=False),
    "9 refinements, mean of the last 2": PolicyInversion(refinements=9, averaged=(8, 10), jitter=False),
}


def main(
    output_dir: Path,
    base: StableDiffusion = StableDiffusion("assets/tiny-sd"),  # noqa: B008
    source: Source = PickAPic("assets/tiny-pairs"),  # noqa: B008
    resolution: int = 32,
    pairs: int = 32,
    steps: list[int] = [2, 3, 5, 10, 20, 50],  # noqa: B006
    most_calls: int = 500,
    settings: str = "",
) -> None:
    """Reconstruction error of DDIM inversion, with and without ReNoise.

    Args:
        output_dir: gets reconstruction.json and reconstruction.png.
        base: whose network inverts and draws, without guidance.
        source: of the pictures and their prompts.
        resolution: side of the pictures.
        pairs: the first so many of the source, both sides.
        steps: lengths of the walk.
        most_calls: walks that take more calls of the network are left out.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = base.load(device)
    data = PairData(source, framing=Framing(resolution, flip=False), caption_dropout=0.0, workers=0)
    batch, draws = model.first(data.open(), pairs)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for name, way in WAYS.items():
        for n in (n for n in steps if n * (1 + way.refinements) <= most_calls):
            errors = relative_errors(replace(way, steps=n), model.denoiser, batch, draws).cpu().numpy()
            row = {"steps": n, "calls": n * (1 + way.refinements), **summarize_errors(errors)}
            found[name].append(row)
            print(f"{name:<36}" + "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    about = {"pictures": 2 * len(batch.row), "base": base.path, "curves": found}
    (output_dir / "reconstruction.json").write_text(json.dumps(about, indent=2) + "\n")
    plot_reconstruction(found, output_dir / "reconstruction.png")


def summarize_errors(errors: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Mean over pictures with its bootstrap interval, and the picture that is missed most."""
    low, high = bootstrap_interval(errors)
    return {"error": float(errors.mean()), "low": low, "high": high, "worst": float(errors.max())}


@torch.no_grad()
def relative_errors(inversion: Inversion, network: Denoiser, batch: ImageBatch, draws: Draws) -> Float[Tensor, " n"]:
    """RMS of what is missed when a picture is inverted to the last time of the grid and led back, in units of the RMS
    of its latents."""
    host = replace(draws, device=torch.device("cpu"))
    times = inversion.grid(len(network.a), host)
    last = torch.full((len(times), 1), inversion.steps - 1)
    noisy = inversion.walk(network, batch, times, last, draws)
    missed = led_back(network, noisy, batch, times.to(noisy.device)) - batch.latents
    return (missed.square().mean((2, 3, 4)) / batch.latents.square().mean((2, 3, 4))).sqrt().flatten()


def led_back(
    network: Denoiser, x: Float[Tensor, "k b c h w"], batch: ImageBatch, times: Int[Tensor, "b steps"]
) -> Float[Tensor, "k b c h w"]:
    """Deterministic DDIM (arXiv:2010.02502, eq. 12, sigma 0) from the last time of the grid to the clean picture."""
    x_0 = x
    for step in range(times.shape[1] - 1, -1, -1):
        t = times[:, step]
        eps = network.eps(x, t, batch.cond)
        x_0 = (x - network.noise(t) * eps) / network.signal(t)
        if step:
            x = network.noised(x_0, eps, times[:, step - 1])
    return x_0
