"""How a run on pictures is judged while it goes on: by held-out pairs, and by what it draws of development prompts."""

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.core.sharding import is_sharded
from diffpo.data.rows import FirstCaption
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.evaluation.preview import draw_in_training
from diffpo.diffusion.model.pipeline import family_of
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.scorer import Scorer
from diffpo.train.state.best import OF_VALIDATION
from diffpo.train.validation import Validation, ValidationSplit

WIN_RATE, SCORE = DRAWN = ("drawn_win_rate", "drawn_score")


@dataclass(frozen=True)
class DrawnPrompts:
    """Development prompts of which each judgement draws pictures: `drawn_win_rate` and `drawn_score` tell how good.

    The first is how often a picture scores more than that of the model the run starts from, for the same prompt and
    seed (a tie counts half), the second the mean score.

    Args:
        prompts: a list, or a file of them; none by which the result is judged in the end.
        scorer: who judges the pictures.
        pictures: per prompt.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        first_seed: of the first picture; the others count up, prompt by prompt.
        batch_size: pictures at a time; part of what decides their last bits.
        side: of the square pictures in pixels; null is what the base was trained on.
        unseen: differences of a score up to this are ties of `drawn_win_rate`: with 0, a few differences that nobody
            sees decide which weights are kept while the policy has hardly moved.

    Raises:
        Refusal: if there are no prompts, a count is not positive, `unseen` is negative, or the scorer cannot judge
            them or be loaded.
    """

    prompts: Prompts | list[str]
    scorer: Scorer
    pictures: int = 1
    steps: int = 25
    guidance: float = 7.5
    first_seed: int = 0
    batch_size: int = 8
    side: int | None = None
    unseen: float = 0.0

    def __post_init__(self):
        counts = {"pictures": self.pictures, "steps": self.steps, "batch_size": self.batch_size, "side": self.side}
        require_at_least(1, **{f"validation.drawn.{name}": count for name, count in counts.items()})
        require_at_least(0, **{"validation.drawn.first_seed": self.first_seed, "validation.drawn.unseen": self.unseen})
        self.scorer.on("cpu").check(self.read())  # what is loaded goes with the copy: nothing is held while training

    def read(self) -> list[str]:
        """The prompts, each once.

        Raises:
            Refusal: if there are none, or one says nothing.
        """
        if isinstance(self.prompts, Prompts):
            return [record["prompt"] for record in self.prompts.read()]
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise Refusal(
                f"validation.drawn.prompts needs texts to draw, got {self.prompts}; name some, or set "
                "validation.drawn to null."
            )
        return self.prompts


class DrawnScores:
    """What a scorer says of pictures by the network as it is, and said of those before the first step.

    All processes have to call its methods. They share the pictures in whole batches, so that none depends on how many
    processes there are; a network that is split over them is asked by all for all.

    Args:
        pipeline: around the network that is trained.
    """

    def __init__(self, config: DrawnPrompts, pipeline: Any, accelerator: Accelerator):
        self.config, self.pipeline, self.accelerator = config, pipeline, accelerator
        self.prompts = [prompt for prompt in config.read() for _ in range(config.pictures)]
        self.base: Float[np.ndarray, " n"] | None = None

    def begin(self) -> None:
        """Draw before the first step; a run that is resumed draws the same once more."""
        self.base = self.draw()

    def __call__(self) -> dict[str, float]:
        """The metrics by name; not finite if a score is not."""
        assert self.base is not None
        ours = self.draw()
        gained = ours - self.base
        wins = (1 + np.where(abs(gained) <= self.config.unseen, 0, np.sign(gained))) / 2
        return {WIN_RATE: float(wins.mean()), SCORE: float(ours.mean())}

    def draw(self) -> Float[np.ndarray, " n"]:
        """Scores of all pictures, known to all processes."""
        config, accelerator = self.config, self.accelerator
        numbers = range(len(self.prompts))
        batches = [numbers[n : n + config.batch_size] for n in numbers[:: config.batch_size]]
        if not is_sharded(self.pipeline.components[family_of(self.pipeline).part]):
            batches = batches[accelerator.process_index :: accelerator.num_processes]
        mine = [number for batch in batches for number in batch]
        asked, seeds = [self.prompts[number] for number in mine], [config.first_seed + number for number in mine]
        how = {"steps": config.steps, "guidance": config.guidance, "batch_size": config.batch_size}
        made = draw_in_training(self.pipeline, accelerator.device, asked, seeds, side=config.side, **how)
        scores = copy(config.scorer)(asked, made).tolist() if mine else []  # a copy's network is not kept
        found = dict(gather_object(list(zip(mine, scores, strict=True))))
        return np.array([found[number] for number in numbers])


@dataclass(frozen=True, eq=False)
class DrawnValidation(Validation):
    """Held-out pairs, and what is drawn besides.

    Attributes:
        drawn: its metrics are told as `validation/drawn_win_rate` and `validation/drawn_score`.
    """

    drawn: DrawnScores = field(kw_only=True)

    def begin(self, *learner: Any) -> None:
        self.drawn.begin()

    def __call__(self, *learner: Any) -> dict[str, float]:
        drawn = {f"{OF_VALIDATION}{name}": value for name, value in self.drawn().items()}
        return super().__call__(*learner) | drawn

    def names(self, *learner: Any) -> list[str]:
        return [*super().names(*learner), *DRAWN]


@dataclass(frozen=True)
class HeldOut(ValidationSplit):
    """Held-out pairs of pictures: no flips, no random crops, no emptied captions, the first of several captions.

    Args:
        drawn: prompts that are drawn and scored besides; null draws none.
    """

    drawn: DrawnPrompts | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.drawn is None and self.keep_best and self.keep_best.metric.removeprefix(OF_VALIDATION) in DRAWN:
            raise Refusal(
                f"validation.keep_best.metric {self.keep_best.metric} is of pictures that are drawn; name prompts and "
                "scorer in validation.drawn."
            )

    def plain(self, data: PairData) -> PairData:
        framing = replace(data.framing, flip=False, random_crop=False)
        return replace(data, rows=[*data.rows, FirstCaption()], framing=framing, caption_dropout=0.0, cycle=None)

    def with_drawn(self, held_out: Validation, pipeline: Any, accelerator: Accelerator) -> Validation:
        """What is judged: held-out pairs, and pictures if any are to be drawn.

        Args:
            pipeline: around the network that is trained.
        """
        if self.drawn is None:
            return held_out
        drawn = DrawnScores(self.drawn, pipeline, accelerator)
        return DrawnValidation(held_out.pairs, held_out.every, held_out.count, held_out.keep_best, drawn=drawn)
