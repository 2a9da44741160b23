"""Time and peak memory of a Diffusion-DPO training step, against a bare hand-written loop of the same UNet calls.

python scripts/benchmark.py --output_dir runs/benchmark

Both loops start from encoded latents and alternate step by step in one process, so that a noisy machine is noisy for
both; the ratio is the median over steps. Peak memory is taken from a fresh process per loop.
"""

import copy
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import psutil
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from diffpo.adapters import LoRA
from diffpo.cli import launch
from diffpo.core import PairLabels
from diffpo.diffusion.denoiser import Conditioning, Denoiser, ImageBatch
from diffpo.diffusion.objective import DenoisingPreference
from diffpo.fit import fit
from diffpo.order import Share
from diffpo.pairs import Pairs
from diffpo.references import FrozenCopy, SwitchedOff
from diffpo.run import FitConfig, open_run

BETA, LR = 5000.0, 1e-6
SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
TINY: dict[str, Any] = {
    "sample_size": 8,
    "cross_attention_dim": 96,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "block_out_channels": (64, 96),
    "attention_head_dim": (2, 3),
    "layers_per_block": 1,
    "norm_num_groups": 16,
}
SHAPES = {"tiny": TINY, "sd15": SD15}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    shape: str
    trained: str
    pairs: int
    precision: str


@dataclass(frozen=True, eq=False)
class Raw:
    """A batch of encoded pairs, the same at every step."""

    batch: ImageBatch
    epoch: tuple[int, ...]
    row: tuple[int, ...]


def main(
    output_dir: Path,
    shape: Literal["tiny", "sd15"] = "tiny",
    batch_sizes: list[int] = [4, 16, 32],  # noqa: B006
    steps: int = 25,
    warmup: int = 5,
    settings: str = "",
) -> None:
    """Time and peak memory of a training step against a bare loop.

    Args:
        output_dir: gets benchmark.json and benchmark.md.
        shape: of the UNet; weights are random.
        batch_sizes: pairs per step.
        steps: timed steps of each loop.
        warmup: steps before them.
        settings: the resolved config.
    """
    cuda = torch.cuda.is_available()
    precision = "bf16" if cuda else "no"
    rows = []
    for trained in ("full", "lora"):
        for pairs in batch_sizes:
            case = Case(shape, trained, pairs, precision)
            ours, bare = alternate(case, steps, warmup)
            ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
            memory = {name: in_fresh_process(peak_memory, case, name) for name in ("ours", "bare")}
            rows.append(
                {
                    "trained": trained,
                    "pairs": pairs,
                    "pairs_per_second": pairs / statistics.median(ours),
                    "bare_pairs_per_second": pairs / statistics.median(bare),
                    "time_ratio": ratio,
                    "peak_gib": memory["ours"],
                    "bare_peak_gib": memory["bare"],
                }
            )
            print(line(rows[-1]), flush=True)
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    output_dir.mkdir(parents=True, exist_ok=True)
    result = {"device": device, "shape": shape, "precision": precision, "torch": torch.__version__, "rows": rows}
    (output_dir / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    head = f"| trained | pairs | pairs/s | bare pairs/s | time ratio | peak GiB | bare peak GiB |\n|{7 * '---|'}"
    text = "\n".join([f"{shape} UNet, {precision}, {device}, torch {torch.__version__}", "", head, *map(line, rows)])
    (output_dir / "benchmark.md").write_text(text + "\n")
    print(text)


def line(row: dict[str, Any]) -> str:
    return (
        f"| {row['trained']} | {row['pairs']} | {row['pairs_per_second']:.2f} | {row['bare_pairs_per_second']:.2f} | "
        f"{row['time_ratio']:.3f} | {row['peak_gib']:.2f} | {row['bare_peak_gib']:.2f} |"
    )


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(case: Case) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**SHAPES[case.shape]).to(device())


def encoded(case: Case) -> Raw:
    config, rng = SHAPES[case.shape], torch.Generator().manual_seed(0)
    side, width, rows = config["sample_size"], config["cross_attention_dim"], tuple(range(case.pairs))
    latents = torch.randn(2, case.pairs, 4, side, side, generator=rng).to(device())
    states = torch.randn(1, case.pairs, 77, width, generator=rng).to(device()).expand(2, -1, -1, -1)
    batch = ImageBatch(latents, Conditioning(states), PairLabels.hard(case.pairs, device()), rows)
    return Raw(batch, (0,) * case.pairs, rows)


def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def run_ours(case: Case, pairs: Pairs, steps: int) -> None:
    """`diffpo.fit.fit` as the training script calls it, on encoded pairs."""
    unet = network(case)
    if case.trained == "lora":
        adapter = LoRA()
        adapter.attach(unet)
        reference = SwitchedOff(unet, adapter.off)
    else:
        reference = FrozenCopy(unet, torch.bfloat16 if case.precision == "bf16" else None)
    path = Denoiser.from_scheduler(unet, scheduler()).to(device())
    config = FitConfig(
        steps=steps,
        batch_size=case.pairs,
        per_device_batch_size=case.pairs,
        mixed_precision=case.precision,  # type: ignore[arg-type]
        save_every=None,
    )
    with TemporaryDirectory() as folder:
        run = open_run(config, folder)

        def prepare(model: nn.Module, raw: Raw, draws: Any) -> tuple[Denoiser, ImageBatch]:
            return Denoiser(model, path.a, path.s, path.prediction), raw.batch

        fit(DenoisingPreference(), unet, reference, pairs, prepare, lambda p: torch.optim.AdamW(p, LR), run)


def bare_step(case: Case) -> Callable[[], None]:
    """What one would write by hand, with diffusers and torch alone."""
    unet, raw = network(case), encoded(case)
    if case.trained == "lora":
        LoRA().attach(unet)
        frozen = None
    else:
        frozen = copy.deepcopy(unet).requires_grad_(False)
        if case.precision == "bf16":
            frozen.to(torch.bfloat16)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LR)
    path, latents = scheduler(), raw.batch.latents.flatten(0, 1)
    text = raw.batch.cond.prompt.flatten(0, 1)
    autocast = torch.autocast(latents.device.type, torch.bfloat16, enabled=case.precision == "bf16")

    def step() -> None:
        noise = torch.randn_like(latents[: case.pairs]).repeat(2, 1, 1, 1)
        t = torch.randint(1000, (case.pairs,), device=latents.device).repeat(2)
        noisy = path.add_noise(latents, noise, t)
        with autocast:
            with torch.no_grad():
                if frozen is None:
                    unet.disable_adapters()
                predicted = (frozen or unet)(noisy, t, text).sample
                reference = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
                if frozen is None:
                    unet.enable_adapters()
            error = (unet(noisy, t, text).sample.float() - noise).square().mean(dim=(1, 2, 3))
            (chosen, rejected), (ref_chosen, ref_rejected) = error.chunk(2), reference.chunk(2)
            margin = (chosen - rejected) - (ref_chosen - ref_rejected)
            loss = -nn.functional.logsigmoid(-0.5 * BETA * margin).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@dataclass(eq=False)
class Repeated(Pairs):
    """The same encoded batch for ever; `between` is called after each of the loop's steps with its duration."""

    raw: Raw
    between: Callable[[float], None]

    @property
    def size(self) -> int:
        return len(self.raw.row)

    def batches(self, share: Share) -> Iterator[Raw]:
        while True:
            began = clock()
            yield self.raw
            self.between(clock() - began)


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(case: Case, steps: int, warmup: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of ours and of the bare loop, one after the other."""
    step, ours, bare = bare_step(case), [], []

    def between(seconds: float) -> None:
        ours.append(seconds)
        began = clock()
        step()
        bare.append(clock() - began)

    run_ours(case, Repeated(encoded(case), between), warmup + steps + 1)
    return ours[warmup:], bare[warmup:]


def peak_memory(case: Case, loop: str) -> float:
    """Of four steps of one loop, in GiB: allocated on the GPU, or resident beyond what the imports took on a CPU."""
    resident = psutil.Process().memory_info
    sizes, done = [resident().rss], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            sizes.append(resident().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if loop == "ours":
        run_ours(case, Repeated(encoded(case), lambda seconds: None), 4)
    else:
        step = bare_step(case)
        for _ in range(4):
            step()
    done.set()
    watcher.join()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return (max(sizes) - sizes[0]) / 2**30


def in_fresh_process(call: Callable[..., float], *args: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, args)


if __name__ == "__main__":
    launch(main)
