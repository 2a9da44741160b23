"""Align a language model with preferences over its own answers, round after round.

accelerate launch scripts/train_rounds.py --config configs/rounds/iterative_dpo.yaml --output_dir runs/a
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from accelerate import PartialState
from jsonargparse import set_parsing_settings
from torch import nn
from torch.optim import Optimizer

from diffpo.commands import train_text
from diffpo.core.objective import Objective
from diffpo.core.refusal import Refusal
from diffpo.data.pairs import require_track
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.win_rates import Evaluation
from diffpo.rounds.learner import TrackLearner, align_in_rounds, without_length
from diffpo.rounds.loop import RoundPlan
from diffpo.rounds.plans import Training, Weights
from diffpo.rounds.roles import Judge, Pairing, Sampler
from diffpo.rounds.samplers import SeveralSamplers
from diffpo.rounds.tables import Answers, name_pairs
from diffpo.storage.job_folder import meet_processes
from diffpo.text.data.pairs import HeldOutTexts, TextData, TextReader
from diffpo.text.evaluation.shift import estimate_kl
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base, load_tuned
from diffpo.text.model.lora import TextWarmLoRA
from diffpo.text.model.sampling import OfModel, TextSampler
from diffpo.train.run import FitConfig

set_parsing_settings(subclasses_enabled=[CausalLM])
MEASURED = 256  # prompts of a round whose answers tell the KL


def main(
    objective: Objective,
    base: CausalLM,
    data: TextData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    output_dir: Path,
    fit: FitConfig,
    prompts: Prompts,
    sampler: Sampler,
    judge: Judge,
    pairing: Pairing,
    rounds: RoundPlan,
    validation: HeldOutTexts | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Align a language model with preferences over its own answers, round after round.

    After a kill, in whatever stage, the same command goes on where it stopped.

    Args:
        objective: what is minimised, e.g. diffpo.text.SequencePreference.
        base: the model to tune. With an adapter, it is that which goes on from round to round; the base never moves.
        data: how pairs are read; data.source is diffpo.rounds.RoundPairs for those of the round, or diffpo.data.Mixed
            of it and of offline pairs.
        optimizer: any torch optimiser by class path; it begins anew in each round.
        output_dir: gets a folder for each round, with candidates, verdicts, pairs, weights and what became of them.
        fit: length, batch, precision, bookkeeping of each round's training.
        prompts: that are answered.
        sampler: how, e.g. diffpo.text.TextSampler.
        judge: who says which answer is better, e.g. diffpo.rounds.FromScorer.
        pairing: which answers become pairs, e.g. diffpo.rounds.BestWorst.
        rounds: how many, of how many answers, where training starts and what it is held to.
        validation: pairs kept from training and judged during it.
        evaluation: what is measured after the last round, of {"base": ..., "tuned": ...}.
        seed: of every random draw.
        settings: the resolved config.
    """
    require_track(objective, "texts")
    meet_processes()
    learner = TextLearner(objective, base, data, optimizer, fit, validation, settings)
    asked = word_prompts(prompts, sampler)
    align_in_rounds(learner, asked, sampler, judge, pairing, rounds, output_dir, seed, evaluation, "texts")


@dataclass(frozen=True, eq=False)
class TextLearner(TrackLearner):
    """Language models: all weights, or a LoRA that goes on from round to round."""

    config: CausalLM
    data: TextData
    validation: HeldOutTexts | None = None

    def load_weights(self, weights: Weights) -> LoadedCausalLM:
        loaded = load_base(self.config) if weights is None else load_tuned(self.config, weights)
        loaded.network.to(PartialState().device)
        return loaded

    def goes_on(self, weights: Path) -> CausalLM:
        if self.config.adapter is None:
            return replace(self.config, path=str(weights), revision=None)
        return replace(self.config, adapter=TextWarmLoRA(str(weights)))

    def network_of(self, model: LoadedCausalLM) -> Any:
        return model.network

    def train(self, training: Training) -> None:
        train_text.main(
            self.objective,
            self.starting(training.start),
            replace(self.data, source=name_pairs(self.data.source, training.pairs)),
            self.optimizer,
            training.output_dir,
            self.fit,
            self.reference(training),
            self.validation,
            seed=training.seed,
            resume="latest",
            settings=without_length(self.settings),
        )

    def measure(self, weights: Weights, answers: Answers, sampler: Sampler) -> dict[str, float]:
        """`kl`: KL(who answered || base) in nats an answer, by one answer to each of the first prompts of the round.

        There is none if no sampler samples the model as it is, for then the answers are of another distribution.
        """
        place = find_plain(sampler)
        if place is None:
            return {}
        if weights is None:
            return {"kl": 0.0}
        model, base, some = self.load(weights), self.load(None), slice(MEASURED)
        reader = TextReader(model.tokenizing, self.data.max_length, self.data.max_prompt_length)
        asked, said = answers.prompts[some], answers.contents[place][some]
        return {"kl": estimate_kl(model.network.eval(), base.network.eval(), reader, asked, said)}


def word_prompts(prompts: Prompts, sampler: Sampler) -> dict[int, Any]:
    """Prompts by their numbers; as conversations if the sampler asks them so, for training then reads them so, too."""
    asked = {n: record["prompt"] for n, record in enumerate(prompts.read())}
    if asks_chats(sampler):
        return {n: [{"role": "user", "content": prompt}] for n, prompt in asked.items()}
    return asked


def asks_chats(sampler: Sampler) -> bool:
    """Whether a sampler asks texts as messages.

    Raises:
        Refusal: if one of several does and another does not.
    """
    if isinstance(sampler, SeveralSamplers):
        asked = {asks_chats(one) for one in sampler.samplers}
        if len(asked) > 1:
            raise Refusal("Samplers of one round ask by the chat template or not, all alike; set as_chat of all.")
        return asked.pop()
    if isinstance(sampler, OfModel):
        return asks_chats(sampler.sampler)
    return isinstance(sampler, TextSampler) and sampler.as_chat


def find_plain(sampler: Sampler) -> int | None:
    """Number of a candidate that is sampled from the model as it is; None if there is none."""
    if isinstance(sampler, SeveralSamplers):
        places = zip(accumulate(sampler.counts, initial=0), map(find_plain, sampler.samplers), strict=False)
        return next((begin + place for begin, place in places if place is not None), None)
    return 0 if isinstance(sampler, TextSampler) and sampler.is_plain else None
