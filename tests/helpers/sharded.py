"""Started twice by test_sharding.py: two processes that split a network, and what they see, written to files."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import save_file
from tiny import denoiser, image_batch, moved, saved, trained, unet
from tiny_runs import MOMENTUM, Points, fit_points, scorer, weights
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.pair import PairLabels
from diffpo.core.references import Ema, FrozenCopy, Reference, SwitchedOff
from diffpo.core.sharding import gather_tensor, reshard, whole_state
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.kto import KTO
from diffpo.diffusion.methods.rethinking import BoundedUpdates
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid
from diffpo.train.ema import EmaWeights
from diffpo.train.state.best import KeepBest
from diffpo.train.state.training_state import TrainingState
from diffpo.train.validation import Validation

# Two layers that stay with the outermost weights, and one inside a transformer block.
ADAPTER = LoRA(rank=2, targets=["conv_in", "proj_in", "to_q"])
RUN = {"optimizer": MOMENTUM, "save_every": 2, "ema": 0.5, "warmup": 3}
BEST = RUN | {"validation": Validation(Points(), every=1, count=4, keep_best=KeepBest("loss", "higher"))}


def shard(network: nn.Module) -> nn.Module:
    """As configs/accelerate/fsdp2.yaml does it."""
    mesh = init_device_mesh("cpu", (2,))
    for module in list(network.modules()):
        if isinstance(module, BasicTransformerBlock | ResnetBlock2D):
            fully_shard(module, mesh=mesh)
    return fully_shard(network, mesh=mesh)


@dataclass(frozen=True)
class Kind:
    """What is trained, and against which reference; the networks are sharded, or in one piece."""

    reference: Callable[[nn.Module], Reference]
    objective: Objective = DenoisingPreference(Sigmoid(beta=50.0))
    adapter: LoRA | None = None
    one_side: bool = False

    def __call__(self, split: bool) -> tuple[nn.Module, Reference]:
        network = unet()
        if self.adapter:
            self.adapter.attach(network)
            trained(network)
            return (shard(network) if split else network), self.reference(network)
        frozen = self.reference(network)
        moved(network)
        return (shard(network) if split else network), frozen


KINDS = {
    "copies": Kind(FrozenCopy),
    "sides": Kind(FrozenCopy, one_side=True),
    "averages": Kind(partial(Ema, decay=0.5)),
    "updates": Kind(partial(BoundedUpdates, tau=1, delta=1e9)),
    "adapters": Kind(lambda network: SwitchedOff(network, ADAPTER.off), adapter=ADAPTER),
    "likes": Kind(FrozenCopy, KTO(beta=50.0)),
    "scores": Kind(FrozenCopy, DSPO(beta=50.0)),
    "winners": Kind(FrozenCopy, SFT()),
}


def part(rank: int | None) -> tuple[ImageBatch, Draws]:
    """Half of four pairs, or all of them."""
    batch, pairs = image_batch(4), slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    rows = batch.row[pairs]
    chosen = replace(
        batch,
        latents=batch.latents[:, pairs],
        cond=batch.cond.map(lambda x: x[:, pairs]),
        label=PairLabels.hard(len(rows)),
        row=rows,
    )
    return chosen, Draws(0, (0,) * len(rows), rows)


def step(kind: Kind, split: bool, rank: int | None, steps: int = 2) -> dict[str, Tensor]:
    """Losses, last gradients and final weights of some steps."""
    network, reference = kind(split)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer, seen = torch.optim.SGD(parameters, lr=1e-3), []
    for _ in range(steps):
        optimizer.zero_grad()
        asked = reference if kind.objective.requires.reference else None
        policy = replace(denoiser(network), one_side_at_a_time=kind.one_side)
        result = kind.objective(policy, asked, *part(rank))
        result.loss.backward()
        optimizer.step()
        reference.after_step(network)
        seen.append(result.loss.detach())
    gradient = torch.cat([gather_tensor(p.grad).flatten() for p in parameters])
    final = {name: value.clone() for name, value in whole_state(network).items()}
    judge = torch.zeros(1) if kind.adapter else weights(reference.model).clone()  # with adapters, the policy itself
    return final | {"losses": torch.stack(seen), "gradient": gradient, "reference": judge}


def compare(name: str, accelerator: Accelerator, root: Path) -> None:
    split = step(KINDS[name], True, accelerator.process_index)
    split["losses"] = accelerator.reduce(split["losses"], "mean")
    if accelerator.is_main_process:
        save_file(split, root / f"{name}.safetensors")


def export(adapter: LoRA | None, accelerator: Accelerator, folder: Path) -> None:
    """What a run leaves, from a network that is split."""
    base = str(folder.parent / "base")
    if accelerator.is_main_process:
        saved(Path(base))
    accelerator.wait_for_everyone()
    model = StableDiffusion(base, adapter=adapter).load()
    trained(model.unet)
    shard(model.unet)
    model.save(folder, writes=accelerator.is_main_process)


@torch.no_grad()
def double(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.mul_(2)


def store(accelerator: Accelerator, root: Path) -> None:
    """Weights and their average to files and back, with a forward pass before, which leaves some weights gathered."""
    network = shard(unet())
    parameters = list(network.parameters())
    average = EmaWeights(parameters, decay=0.5)
    double(parameters)
    average.step(parameters)
    state = TrainingState(accelerator, network, others={"average": average})
    if accelerator.is_main_process:
        (root / "stored").mkdir()
    accelerator.wait_for_everyone()
    state.save(root / "stored")
    accelerator.wait_for_everyone()
    batch, _ = part(None)

    @torch.no_grad()
    def output() -> Tensor:
        return network(batch.latents[0], torch.arange(4), batch.best().cond.states["prompt"].flatten(0, 1)).sample

    before = output()
    reshard(network)
    double(parameters)
    average.step(parameters)
    other = output()
    state.load(root / "stored")
    again = output()
    reshard(network)
    average.copy_to(parameters)
    averaged = whole_state(network)
    if accelerator.is_main_process:
        save_file(averaged, root / "averaged.safetensors")
        seen = {"changed": (other - before).abs().max().item(), "restored": torch.equal(before, again)}
        kept = len(whole_state(unet(), keep=False))
        (root / "stored.json").write_text(json.dumps(seen | {"kept": kept}))


def nested() -> nn.Module:
    """One layer that is wrapped by its class, Sequential, and one that stays with the outermost weights."""
    first, *rest = scorer()
    return nn.Sequential(first, nn.Sequential(*rest))


def train(root: Path) -> None:
    """Whole runs by `fit` through accelerate; the second takes up the first after two steps."""
    policy = nested()
    fit_points(root / "fit", policy, reference=Ema(policy, 0.5), keep=1, **RUN | {"steps": 2})
    again = nested()
    fit_points(root / "fit", again, resume="latest", reference=Ema(again, 0.5), **RUN)
    final = whole_state(again)
    fit_points(root / "best", nested(), **BEST | {"steps": 2})
    best = nested()
    fit_points(root / "best", best, resume="latest", **BEST)
    kept = whole_state(best)
    if Accelerator().is_main_process:
        save_file(final, root / "fit.safetensors")
        save_file(kept, root / "best.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    # accelerate offers FSDP on accelerators only; this is all that keeps it from a CPU.
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    folder, here = Path(sys.argv[1]), Accelerator()
    assert here.is_fsdp2
    for each in KINDS:
        compare(each, here, folder)
    export(None, here, folder / "full")
    export(ADAPTER, here, folder / "lora")
    store(here, folder)
    train(folder)
