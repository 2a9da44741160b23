"""What two and four processes, started by test_distributed.py, must do like one: results go to files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_runs import fit_diffusion
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.diffusion.methods.inpo import InPO
from diffpo.diffusion.model.loading import LoadedStableDiffusion, StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.inversion import PolicyInversion

INVERTED = InPO(noising=PolicyInversion(4, refinements=1, eta=0.1))  # processes walk different numbers of steps
KINDS = {
    "full": {},
    "lora": {"base": {"adapter": LoRA(rank=4)}},
    "inverted": {"objective": INVERTED},
    "sides": {"base": {"one_side_at_a_time": True}},
}
SGD = partial(torch.optim.SGD, lr=3e-3)
QUIET = {"batch_size": 4, "log_every": 100}


def trainable(model: LoadedStableDiffusion) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.unet.parameters() if p.requires_grad])


def first_gradient(root: Path, kind: dict, per_device: int) -> Tensor:
    """Of AdamW, on four pairs, in double precision."""
    seen = []

    def optimizer(parameters) -> torch.optim.Optimizer:
        stepper = torch.optim.AdamW(parameters, lr=1e-3)
        trained = stepper.param_groups[0]["params"]
        stepper.register_step_pre_hook(lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trained])))
        return stepper

    settings = QUIET | {"per_device_batch_size": per_device, "max_grad_norm": 1e9, "steps": 1}
    with double():
        fit_diffusion(root, root / "unused", optimizer=optimizer, **kind, **settings)  # which saves nothing
    return seen[0]


def stops(steps: int) -> dict[int, int]:
    """The last steps of four processes, of the two that go on, and of the one that ends."""
    return {4: steps // 3, 2: 2 * steps // 3, 1: steps}


def results(root: Path, name: str, per_device: int, steps: int) -> None:
    """Weights after some steps of SGD, and in double precision the first gradient of AdamW."""
    found = {}
    for name_of_kind, kind in KINDS.items():
        sizes = QUIET | {"per_device_batch_size": per_device, "steps": steps}
        model, _ = fit_diffusion(root, root / "unused", optimizer=SGD, **kind, **sizes)
        found[f"weights/{name_of_kind}"] = trainable(model)
        found[f"gradient/{name_of_kind}"] = first_gradient(root, kind, per_device)
    if Accelerator().is_main_process:
        save_file(found, root / f"{name}.safetensors")


def relay(root: Path, name: str, stop: int, per_device: int, resume: str | None = "latest") -> dict[str, Tensor]:
    """A run in double precision up to `stop`, or on to it; its weights then."""
    found = {}
    with double():
        for name_of_kind, kind in KINDS.items():
            sizes = QUIET | {"per_device_batch_size": per_device, "steps": stop, "save_every": 100}
            momentum = partial(SGD, momentum=0.9)
            folder = root / f"{name}-{name_of_kind}"
            model, _ = fit_diffusion(root, folder, resume, optimizer=momentum, **kind, **sizes)
            found[name_of_kind] = trainable(model)
    return found


@contextmanager
def double() -> Iterator[None]:
    """Inside, all that is computed in single precision otherwise is computed in double."""
    draw, load = Draws._draw, StableDiffusion.load

    def drawn(self: Draws, *args) -> Tensor:
        numbers = draw(self, *args)
        return numbers.double() if numbers.is_floating_point() else numbers

    def loaded(self: StableDiffusion, *args, **options) -> LoadedStableDiffusion:
        model = load(self, *args, **options)
        for part in (model.parts.unet, model.parts.vae, model.parts.text_encoder):
            part.double()
        model.denoiser = replace(model.denoiser, a=model.denoiser.a.double(), s=model.denoiser.s.double())
        return model

    with (
        patch.object(Tensor, "float", Tensor.double),
        patch.object(Draws, "_draw", drawn),
        patch.object(StableDiffusion, "load", loaded),
    ):
        yield


def share(root: Path, steps: int) -> None:
    """What each of several processes does."""
    world = Accelerator().num_processes
    results(root, f"processes{world}", 4 // world, steps)
    relay(root, "relay", stops(steps)[world], 4 // world, resume=None if world == 4 else "latest")
