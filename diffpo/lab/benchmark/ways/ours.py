"""Our way: `diffpo.fit` as the training script calls it, on pixels, on encoded pairs, and without a reference."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import SCORES, Reference, Score, store_matrices
from diffpo.data.pairs import Pairs
from diffpo.diffusion.data.batches import EncodedBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.encoder import Encoder
from diffpo.diffusion.model.loading import LoadedStableDiffusion, StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.lab.benchmark.ways.case import Case
from diffpo.train.fit import fit
from diffpo.train.reference_cache import CachedReference, open_answers
from diffpo.train.run import FitConfig, open_run

PIXELS, ENCODED, REMEMBERED = "ours, pixels", "ours, encoded", "ours, remembered"
FOREVER = 10**6  # steps; what is timed ends when the batches do


class AskedOrRemembered(Reference):
    """A frozen network at even epochs, what was remembered of it at odd ones: two ways of one loop."""

    def __init__(self, asked: Reference, remembered: Reference):
        self.asked, self.remembered = asked, remembered
        self.answers = asked

    def at(self, draws: Draws | None) -> None:
        assert draws is not None
        self.answers = self.remembered if draws.epoch[0] % 2 else self.asked
        self.answers.at(draws)

    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        return self.answers(score, what)


class Ours:
    """A loaded base and one batch of pairs, as pixels and encoded.

    Args:
        pipeline: its parts are taken over and changed.
    """

    def __init__(self, case: Case, pipeline: Any, objective: Objective | None = None):
        self.case, self.objective = case, objective or DenoisingPreference()
        self.encoder = Encoder.of(pipeline, case.storage)
        case.trainable(pipeline.unet)
        if case.lora and case.bf16:
            store_matrices(pipeline.unet, case.storage)
        config = StableDiffusion(case.shape, adapter=LoRA() if case.lora else None)
        denoiser = Denoiser.from_scheduler(pipeline.unet, pipeline.scheduler).to(case.device)
        denoiser = replace(denoiser, one_side_at_a_time=case.one_side_at_a_time)
        self.model = LoadedStableDiffusion(config, pipeline, self.encoder.conditioner, denoiser, case.storage)

    def encoded(self) -> EncodedBatch:
        """On the host, as from a file."""
        return self.encoder(self.case.pixels().to(self.case.device)).to(torch.device("cpu"))

    def leave_encoders(self) -> None:
        """Give back the memory of VAE and text encoders: encoded pairs do without."""
        self.encoder.to("meta")

    def batches(self) -> dict[str, Any]:
        """A batch for each of the three ways; what is remembered is of the second epoch."""
        encoded = self.encoded()
        remembered = replace(encoded, epoch=(1,) * self.case.pairs)
        return {PIXELS: self.case.pixels(), ENCODED: encoded, REMEMBERED: remembered}

    def train(self, pairs: Pairs, reference: Reference | None, accumulate: int = 1, log_every: int = 10) -> None:
        """Until the batches end."""
        config = FitConfig(
            steps=FOREVER,
            batch_size=self.case.pairs * accumulate,
            per_device_batch_size=self.case.pairs,
            mixed_precision="bf16" if self.case.bf16 else "no",
            log_every=log_every,
            save_every=None,
        )
        with any_precision(), TemporaryDirectory() as folder, silence():
            run = open_run(config, folder)
            fit(self.objective, self.model.unet, reference, pairs, self.model.prepare, self.case.optimizer, run)


@contextmanager
def any_precision() -> Iterator[None]:
    """accelerate allows one mixed precision per process; here cases of several follow one another."""
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._reset_state()


@contextmanager
def silence() -> Iterator[None]:
    """No progress bar between the measurements."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def remembering(asked: Reference | None, pairs: int, folder: Path) -> CachedReference:
    """A reference that remembers two epochs of so many pairs; with nobody to ask, it remembers zeros."""
    open_answers(folder, {}, {SCORES: (2, pairs, 2)})
    remembered = CachedReference(asked, folder)
    if asked is None:
        remembered.fill(0.0)
    return remembered
