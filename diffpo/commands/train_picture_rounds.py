"""Align a text-to-image model with preferences over its own pictures, round after round.

accelerate launch scripts/train_diffusion_rounds.py --config configs/rounds_pictures/scenes.yaml --output_dir runs/a
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import transformers
from torch import nn
from torch.optim import Optimizer

from diffpo.commands import train
from diffpo.core.objective import Objective
from diffpo.core.refusal import Refusal
from diffpo.data.pairs import require_track
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.evaluation.held_out import HeldOut
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.model.lora import WarmLoRA
from diffpo.diffusion.model.pipeline import family_of
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.win_rates import Evaluation
from diffpo.rounds.learner import TrackLearner, align_in_rounds, without_length
from diffpo.rounds.loop import RoundPlan
from diffpo.rounds.plans import Momentum, Training, Weights
from diffpo.rounds.roles import Judge, Pairing, Sampler
from diffpo.rounds.tables import name_pairs
from diffpo.storage.job_folder import meet_processes
from diffpo.train.run import FitConfig


def main(
    objective: Objective,
    base: StableDiffusion,
    data: PairData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    output_dir: Path,
    fit: FitConfig,
    prompts: Prompts,
    sampler: Sampler,
    judge: Judge,
    pairing: Pairing,
    rounds: RoundPlan,
    validation: HeldOut | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Align a text-to-image model with preferences over its own pictures, round after round.

    After a kill, in whatever stage, the same command goes on where it stopped.

    Args:
        objective: what is minimised, e.g. diffpo.diffusion.DenoisingPreference.
        base: the model to tune. With an adapter, it is that which goes on from round to round; the base never moves.
        data: how pairs are read; data.source is diffpo.rounds.RoundPairs for those of the round, or diffpo.data.Mixed
            of it and of offline pairs.
        optimizer: any torch optimiser by class path; it begins anew in each round.
        output_dir: gets a folder for each round, with pictures, verdicts, pairs, weights and what became of them.
        fit: length, batch, precision, bookkeeping of each round's training.
        prompts: that are drawn.
        sampler: how, e.g. diffpo.diffusion.PictureSampler.
        judge: who says which picture is better, e.g. diffpo.rounds.FromScorer.
        pairing: which pictures become pairs, e.g. diffpo.rounds.BestWorst.
        rounds: how many, of how many pictures, where training starts and what it is held to.
        validation: pairs kept from training and judged during it, with what is drawn of development prompts.
        evaluation: what is measured after the last round, of {"base": ..., "tuned": ...}.
        seed: of every random draw.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    require_track(objective, "pictures")
    if isinstance(rounds.start, Momentum):
        raise Refusal("Momentum between rounds is for language models; let rounds.start be diffpo.rounds.FromLast.")
    meet_processes()
    learner = PictureLearner(objective, base, data, optimizer, fit, validation, settings)
    asked = {n: record["prompt"] for n, record in enumerate(prompts.read())}
    align_in_rounds(learner, asked, sampler, judge, pairing, rounds, output_dir, seed, evaluation, "pictures")


@dataclass(frozen=True, eq=False)
class PictureLearner(TrackLearner):
    """Text-to-image models: the whole network, or a LoRA that goes on from round to round. A model is a pipeline."""

    config: StableDiffusion
    data: PairData
    validation: HeldOut | None = None

    def load_weights(self, weights: Weights) -> Any:
        return load_pipeline(self.config) if weights is None else load_tuned(self.config, weights)

    def goes_on(self, weights: Path) -> StableDiffusion:
        if self.config.adapter is None:
            return replace(self.config, unet=str(weights))
        return replace(self.config, adapter=WarmLoRA(str(weights)))

    def network_of(self, model: Any) -> Any:
        return model.components[family_of(model).part]

    def train(self, training: Training) -> None:
        rounds = training.pairs.parent.parent  # paths of pictures are relative to it
        train.main(
            self.objective,
            self.starting(training.start),
            replace(self.data, source=name_pairs(self.data.source, training.pairs, rounds)),
            self.optimizer,
            training.output_dir,
            self.fit,
            self.reference(training),
            validation=self.validation,
            seed=training.seed,
            resume="latest",
            settings=without_length(self.settings),
        )
