"""Quality against guidance scale: every model's best one, chosen on prompts that nothing is reported on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.drawing import Sampling, draw_pictures
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.evaluation.scores import Judges, ModelPictures
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.win_rates import bootstrap_interval


@dataclass(frozen=True)
class GuidanceSweep:
    """Draw development prompts at several guidance scales; each model is then compared at its own best.

    Args:
        prompts: others than those of the comparison.
        scales: to try.
        pictures: per prompt.
        by: name of the scorer whose mean chooses; null is the first.

    Raises:
        Refusal: if there is no scale.
    """

    prompts: Prompts
    scales: list[float] = field(default_factory=lambda: [1.0, 2.5, 5.0, 7.5, 10.0])
    pictures: int = 1
    by: str | None = None

    def __post_init__(self):
        if not self.scales:
            raise Refusal("sweep.scales is empty; name some, or set sweep to null.")

    def asked(self, reported: Sequence[str], judges: Judges) -> list[str]:
        """The development prompts.

        Raises:
            Refusal: if one of them is reported on too, or `by` is no scorer.
        """
        asked = [record["prompt"] for record in self.prompts.read()]
        if both := sorted(set(asked) & set(reported)):
            raise Refusal(
                f"{len(both)} prompts of {self.prompts.path} are among those of the comparison, e.g. {both[0]!r}; "
                "choose the guidance scale on others."
            )
        if self.by is not None and self.by not in judges.names:
            raise Refusal(f"sweep.by is {self.by!r}, the scorers are {', '.join(judges.names)}.")
        return asked

    def __call__(
        self,
        model: ComparedModel,
        load: Callable[[], Any],
        asked: Sequence[str],
        judges: Judges,
        sampling: Sampling,
        folder: Path,
    ) -> dict[str, list[dict[str, float]]]:
        """Of each scorer, a point per scale: the mean with its 95 % interval over prompts.

        Args:
            load: gives the model's pipeline; called at every scale at which something is missing.
        """
        curves: dict[str, list[dict[str, float]]] = {name: [] for name in judges.names}
        for scale in self.scales:
            once = replace(sampling, guidance=scale, pictures=self.pictures)
            place, title = folder / model.name / f"guidance-{scale:g}", f"{model.name} at {scale:g}"
            files = draw_pictures(load, asked, once, place, model.identity, title)
            numbers = judges.numbers(ModelPictures(files, place, model.identity), asked, title)
            for name in judges.names:
                curves[name].append({"scale": scale, **mean_with_interval(numbers[name])})
        return curves

    def best(self, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> float:
        """The scale with the highest mean."""
        return max(curves[self.by or next(iter(curves))], key=lambda point: point["mean"])["scale"]

    def report(self, curves: Mapping[str, Any], asked: Sequence[str], judges: Judges) -> dict[str, Any]:
        """What a report says of it.

        Args:
            curves: of every model.
        """
        return {
            "n_prompts": len(asked),
            "pictures": self.pictures,
            "metric": self.by or judges.names[0],
            "chosen": {name: self.best(of_model) for name, of_model in curves.items()},
            "curves": dict(curves),
        }


def mean_with_interval(scores: np.ndarray) -> Mapping[str, float]:
    by_prompt = np.nanmean(scores[~np.isnan(scores).all(axis=1)], axis=1)
    low, high = bootstrap_interval(by_prompt)
    return {"mean": float(by_prompt.mean()), "low": low, "high": high}
