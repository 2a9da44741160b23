"""What the tracks' learners have in common: whole weights, or an adapter that goes on from round to round."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from torch import nn
from torch.optim import Optimizer

from diffpo.core.objective import Objective
from diffpo.core.references import FrozenCopy, Reference, SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.evaluation.win_rates import Evaluation
from diffpo.processes.everyone import on_main
from diffpo.rounds.loop import RoundPlan, run_rounds
from diffpo.rounds.plans import RoundLearner, ToBase, Training, Weights
from diffpo.rounds.roles import Judge, Pairing, Sampler
from diffpo.storage.files import CONFIG
from diffpo.storage.ledger import replace_file
from diffpo.train.adapters import adapters_off
from diffpo.train.run import FitConfig
from diffpo.train.state.checkpoint import shaping_settings

OF_THE_LOOP = ("sampler", "judge", "pairing", "prompts", "rounds", "evaluation", "output_dir", "seed")


@dataclass(frozen=True, eq=False)
class TrackLearner(RoundLearner):
    """A model that a track tunes: all weights, or an adapter that goes on from round to round.

    Args:
        config: the base, as the track names it.
        data: how pairs are read.
        settings: the resolved config.
    """

    objective: Objective
    config: Any
    data: Any
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    fit: FitConfig
    validation: Any = None
    settings: str = ""

    @abstractmethod
    def load_weights(self, weights: Weights) -> Any:
        """The base with what a run has written; None is the base itself."""

    @abstractmethod
    def goes_on(self, weights: Path) -> Any:
        """The base as training goes on from what a run has written."""

    @abstractmethod
    def network_of(self, model: Any) -> Any:
        """What is trained of a loaded model."""

    @property
    def identity(self) -> dict[str, Any]:
        if not self.settings:
            return {"objective": repr(self.objective), "base": repr(self.config), "data": repr(self.data)}
        return {key: value for key, value in shaping_settings(self.settings).items() if not of_the_loop(key)}

    @property
    def base(self) -> Path:
        return Path(self.config.path)

    def load(self, weights: Weights) -> Any:
        adapter = self.config.adapter
        if weights is None and adapter is not None and adapter.start is not None:
            weights = Path(adapter.start)
        return self.load_weights(weights)

    def starting(self, weights: Weights) -> Any:
        """The base as a round's training starts from it."""
        return self.config if weights is None else self.goes_on(weights)

    def reference(self, training: Training) -> Callable[[nn.Module], Reference] | None:
        """None is the base as training loads it."""
        if training.start is None and training.reference == ToBase():
            return None
        if not self.objective.requires.reference:
            return None
        return lambda network: training.reference.make(network, partial(self.base_beside, network))

    def base_beside(self, network: Any) -> Reference:
        """A reference of the base: the network without adapters, if they were new in the first round, or a copy."""
        if self.config.adapter is not None and self.config.adapter.start is None:
            return SwitchedOff(network, adapters_off)
        return FrozenCopy(self.network_of(self.load(None)).to(network.device))


def align_in_rounds(
    learner: TrackLearner,
    prompts: Mapping[int, Any],
    sampler: Sampler,
    judge: Judge,
    pairing: Pairing,
    rounds: RoundPlan,
    output_dir: Path,
    seed: int,
    evaluation: Evaluation | None,
    makes: str,
) -> None:
    """Run all rounds, keep the config, and evaluate what the last one has left.

    Args:
        makes: what the model answers with.

    Raises:
        Refusal: if the sampler makes something else; see `run_rounds`.
    """
    if sampler.makes != makes:
        raise Refusal(f"{type(sampler).__name__} samples {sampler.makes}, this is training on {makes}; name another.")
    last = run_rounds(learner, prompts, sampler, judge, pairing, rounds, output_dir, seed)
    if learner.settings:
        on_main(lambda: replace_file(output_dir / CONFIG, learner.settings.encode()))
    if PartialState().is_main_process:
        print(f"The weights of the last round are in {last}.")
    if evaluation is not None:
        evaluation({"base": learner.load(None), "tuned": learner.load(last)}, output_dir, seed)


def of_the_loop(key: str) -> bool:
    """Whether a setting belongs to the loop, which compares it, or may differ."""
    return f"{key}.".startswith(tuple(f"{name}." for name in OF_THE_LOOP))


def without_length(settings: str) -> str:
    """The same config without how many rounds there are, which may change from call to call."""
    tree = yaml.safe_load(settings) or {}
    if "rounds" in tree:
        tree["rounds"].pop("rounds", None)
    return yaml.safe_dump(tree, sort_keys=False) if tree else ""
