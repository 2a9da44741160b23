"""Runs of a few steps: on points, which takes milliseconds, and on a tiny Stable Diffusion."""

import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from tiny import pair_folder, picture, pipeline
from torch import Tensor, nn

from diffpo.cli.command import launch
from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step, pair_step
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.references import Ema, FrozenCopy, Reference
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.data.pairs import Pairs
from diffpo.data.sampler import PairSampler, ProcessShare
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.model.loading import LoadedStableDiffusion, StableDiffusion
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.adaptive import AutoBeta
from diffpo.losses.logistic import Sigmoid
from diffpo.processes.everyone import fail_together, on_main
from diffpo.processes.stopping import Stopped
from diffpo.train.fit import fit
from diffpo.train.run import FitConfig, open_run
from diffpo.train.state import training_state

SHORT = {"steps": 4, "batch_size": 4, "per_device_batch_size": 2, "log_every": 1, "save_every": None}
MOMENTUM = partial(torch.optim.SGD, lr=1.0, momentum=0.9)


@dataclass(frozen=True, eq=False)
class PointBatch:
    points: Tensor
    epoch: tuple[int, ...]
    row: tuple[int, ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> "PointBatch":
        return replace(self, points=change(self.points))

    def to(self, device: torch.device) -> "PointBatch":
        return self.map(lambda x: x.to(device))

    def pin_memory(self) -> "PointBatch":
        return self.map(Tensor.pin_memory)


class Points(Pairs):
    """Pairs of points in space; the chosen one lies further along the first axis."""

    def __init__(self, n: int = 12):
        self.points = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(0))
        self.points[0, :, 0] += 2.0

    @property
    def size(self) -> int:
        return self.points.shape[1]

    def batches(self, share: ProcessShare) -> Iterator[PointBatch]:
        for picks in PairSampler((self.size,), share):
            epoch, row, _ = zip(*picks, strict=True)
            yield PointBatch(self.points[:, list(row)], epoch, row)


@dataclass(frozen=True)
class PointPreference(Objective):
    """DPO where the policy's output at a point, shifted by noise that the pair shares, is its log-likelihood."""

    loss: PairLoss = field(default_factory=lambda: Sigmoid(1.0))

    @property
    def requires(self) -> Requirements:
        return Requirements.of(self.loss)

    def __call__(self, policy: nn.Module, reference: Reference, batch: PointBatch, draws: Draws) -> Step:
        noisy = batch.points + 0.1 * draws.normal("noise", 3)

        def logp(model: nn.Module) -> Tensor:
            return model(noisy).squeeze(-1)

        policy_logp = logp(policy)
        pair = PairLogps(policy_logp, reference(logp), torch.ones_like(policy_logp))
        return pair_step(self.loss, pair, PairLabels.hard(len(batch.row)))


def scorer(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def adamw(lr: float = 1e-2) -> Callable[[Any], torch.optim.Optimizer]:
    return partial(torch.optim.AdamW, lr=lr)


def fit_points(
    output_dir: Path, policy: nn.Module | None = None, resume: str | None = None, settings: str = "seed: 0", **changed
) -> nn.Module:
    """Train on points; `changed` are fields of FitConfig or arguments of `fit`."""
    arguments = {"objective": PointPreference(), "pairs": Points(), "optimizer": adamw(), "preview": None}
    arguments |= {"prepare": lambda model, batch, draws: (model, batch)}
    arguments |= {name: changed.pop(name) for name in list(changed) if name in {*arguments, "reference", "validation"}}
    policy = policy or scorer()
    arguments.setdefault("reference", FrozenCopy(policy))
    fit(policy=policy, run=open_run(FitConfig(**SHORT | changed), output_dir, 0, resume, settings), **arguments)
    return policy


def diffusion_files(root: Path) -> Path:
    """An untrained pipeline in `base`, and six pairs in `pairs` whose red picture beats a blue one."""
    pipeline().save_pretrained(root / "base")
    pair_folder(root / "pairs")
    for i in range(6):
        picture("red").save(root / "pairs" / "chosen" / f"{i}.png")
        picture("blue").save(root / "pairs" / "rejected" / f"{i}.png")
    return root


def fit_diffusion(
    root: Path,
    output_dir: Path,
    resume: str | None = None,
    workers: int = 0,
    reference: Callable[[nn.Module], Reference] | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    prepare: Callable[..., Any] | None = None,
    objective: Objective | None = None,
    base: dict[str, Any] | None = None,
    **config,
) -> tuple[LoadedStableDiffusion, Reference]:
    """Train the pipeline of `diffusion_files` on its pairs, wired as the training script does it."""
    run = open_run(FitConfig(**SHORT | config), output_dir, 0, resume, "seed: 0")
    model = StableDiffusion(str(root / "base"), **base or {}).load(run.accelerator.device)
    frozen = reference(model.unet) if reference else model.reference()
    pairs = PairData(PairFolder(str(root / "pairs")), framing=Framing(32), workers=workers).open(0)
    prepare = partial(prepare or type(model).prepare, model)
    fit(
        objective or DenoisingPreference(Sigmoid(2000.0)),
        model.unet,
        frozen,
        pairs,
        prepare,
        optimizer or adamw(1e-3),
        run,
    )
    return model, frozen


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for _, p in sorted(model.named_parameters())])


def stored(output_dir: Path, step: int) -> Tensor:
    """The trained weights in a checkpoint, as one vector."""
    tensors = load_file(output_dir / f"checkpoint-{step:06d}" / "trainable.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def in_process(target: Callable[..., None], *args) -> int | None:
    """Run a function of this module in a process of its own, forked from one that has it imported; its exit code."""
    (exitcode,) = in_processes([(as_if_started_by_hand, target, *args)])
    return exitcode


def together(world: int, target: Callable[..., None], *args, **environment: str) -> list[int | None]:
    """Run a function in several processes that find one another as those of torchrun do; their exit codes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1]), "WORLD_SIZE": str(world)}
    ranks = [meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | environment for rank in range(world)]
    return in_processes([(as_rank, rank, target, *args) for rank in ranks])


def in_processes(calls: list[tuple]) -> list[int | None]:
    """Run each call (a function and its arguments) in a process of its own."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_runs"])
    processes = [context.Process(target=call[0], args=call[1:]) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]


def as_rank(environment: dict[str, str], target: Callable[..., None], *args) -> None:
    os.environ.update({"ACCELERATE_USE_CPU": "true"} | environment)
    as_if_started_by_hand(target, *args)


def as_if_started_by_hand(target: Callable[..., None], *args) -> None:
    """Without what the process inherits from the one it was forked by."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the workers that load data
    target(*args)


def run_for_resume(root: Path, output_dir: Path, kill: int | str | None, resume: str | None, save_every: int) -> None:
    """Five steps with everything that has a state; `kill` is a micro-batch before which the run dies, or "save"."""
    calls, write_tree = [], training_state.write_tree

    def prepare(model: LoadedStableDiffusion, *args) -> Any:
        if len(calls) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(None)
        return model.prepare(*args)

    def killing_save(folder: Path, name: str, tree: Any) -> None:
        """Half of the optimiser's state after step 4."""
        if "checkpoint-000002" in os.listdir(output_dir):
            (folder / f"{name}-0.safetensors").write_bytes(b"PK")
            os.kill(os.getpid(), signal.SIGKILL)
        write_tree(folder, name, tree)

    if kill == "save":
        training_state.write_tree = killing_save
    model, reference = fit_diffusion(
        root,
        output_dir,
        resume,
        workers=2,
        reference=partial(Ema, decay=0.5),
        prepare=prepare,
        schedule="cosine",
        warmup=1,
        ema=0.9,
        steps=5,
        save_every=save_every,
        keep=3,
    )
    final = {"exported": weights(model.unet), "reference": weights(reference.model), "trained": stored(output_dir, 5)}
    save_file(final, output_dir / "final.safetensors")


def run_until_signal(root: Path, step: int) -> None:
    """The first process gets a signal within a step; what each says then goes to `said-<its number>`."""
    calls, rank = [], int(os.environ["RANK"])

    def prepare(model: nn.Module, batch: PointBatch, draws: Draws) -> tuple[nn.Module, PointBatch]:
        calls.append(None)
        if len(calls) == step and not rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return model, batch

    try:
        fit_points(
            root / "run", prepare=prepare, steps=4, save_every=9, ema=0.9, schedule="cosine", warmup=1, log_every=2
        )
    except Stopped as stopped:
        (root / f"said-{rank}").write_text(f"{stopped.number}: {stopped}")


def fit_auto_beta(folder: Path, resume: str | None = None, **changed) -> tuple[Tensor, float]:
    """The weights and the beta that some steps end with."""
    loss = AutoBeta(high=1000.0, decay=0.5)
    policy = fit_points(folder, resume=resume, objective=PointPreference(loss), **changed)
    return weights(policy), float(loss.beta)


def share_auto_beta(root: Path) -> None:
    """What each of two processes does."""
    found, beta = fit_auto_beta(root / "two")
    save_file({"weights": found, "beta": torch.tensor(beta)}, root / f"two-{os.environ['RANK']}.safetensors")


def killed_within_training(root: Path) -> None:
    """The second process dies within a step; what the first says goes to `said`."""
    calls, rank = [], int(os.environ["RANK"])

    def prepare(model: nn.Module, batch: PointBatch, draws: Draws) -> tuple[nn.Module, PointBatch]:
        calls.append(None)
        if len(calls) == 2 and rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return model, batch

    def main(settings: str = "") -> None:
        fit_points(root / "run", prepare=prepare)

    sys.argv = ["program"]
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            launch(main)
    finally:
        lines = [line for line in errors.getvalue().splitlines() if line.startswith(("error", "Traceback"))]
        (root / "said").write_text("\n".join(lines))


def check_on_main(root: Path) -> None:
    """A problem of the first process, then one of the second; what each hears goes to `said-<its number>`."""
    PartialState(cpu=True)
    rank, heard = int(os.environ["RANK"]), []
    for check in (partial(on_main, partial(refuse, "main: no")), partial(fail_together, "rank 1: no" if rank else "")):
        try:
            check()
        except Refusal as error:
            heard.append(str(error))
    (root / f"said-{rank}").write_text("; ".join(heard))


def refuse(said: str) -> None:
    raise Refusal(said)


def run_on_a_full_disk(output_dir: Path, room: int) -> None:
    """No file can outgrow `room` bytes; what the run says goes to `said`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            fit_points(output_dir, resume="latest", save_every=1)
    except Refusal as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (output_dir / "said").write_text(str(error))
