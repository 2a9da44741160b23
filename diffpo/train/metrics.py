"""What a run says about itself: metrics summed on the device, and warnings that come with a remedy."""

from collections import deque
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal

WINDOW = 6  # reads of the meter that a warning looks back
# On the tiny world a run whose pictures stay whole ends 8 % above the reference; one that frays them, at 200 %.
TOLERATED = 0.1
CLEAR = 0.55  # implicit accuracy from which on a margin is more than noise


def require_trackers(names: Sequence[str]) -> None:
    """Raise a Refusal if accelerate does not know a tracker, or its package, which is called alike, is not there."""
    known, installed = sorted(LOGGER_TYPE_TO_CLASS), set(map(str, get_available_trackers()))
    if strange := [name for name in names if name not in known]:
        raise Refusal(f"fit.report_to names {', '.join(strange)}; the known trackers are {', '.join(known)}.")
    if absent := [name for name in names if name not in installed]:
        raise Refusal(
            f"fit.report_to names {', '.join(absent)}, not installed; pip install {' '.join(absent)}, or leave it "
            "out: metrics.jsonl has the same numbers."
        )


class Meter:
    """Sums and counts of metrics over micro-batches and ranks; nothing leaves the device before `read`."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self._kept: dict[tuple[str, ...], Tensor] = {}

    def add(self, metrics: dict[str, Float[Tensor, " b"]]) -> None:
        """Add one value per pair to each metric; NaN says that a metric is not about that pair."""
        values = torch.stack(list(metrics.values())).detach().float()
        self._add(tuple(metrics), torch.stack([values.nansum(1), (~values.isnan()).sum(1)]))

    def add_number(self, name: str, value: Float[Tensor, ""]) -> None:
        """Add one value of the whole micro-batch; here NaN is an accident and stays visible."""
        self._add((name,), torch.stack([value.detach().float(), torch.ones_like(value)]).unsqueeze(1))

    def _add(self, names: tuple[str, ...], sums_and_counts: Float[Tensor, "2 n"]) -> None:
        self.sums[names] = self.sums[names] + sums_and_counts if names in self.sums else sums_and_counts

    @property
    def names(self) -> list[str]:
        """Of all that was added, also of what was about no pair so far."""
        return [name for group in self.sums for name in group]

    def keep(self) -> None:
        """A step is whole."""
        self._kept = dict(self.sums)

    def drop_unfinished(self) -> None:
        """Forget what was added after the last whole step."""
        self.sums = dict(self._kept)

    def read(self) -> dict[str, float]:
        """Means over all ranks since the last read; metrics that were about no pair are left out."""
        if not self.sums:
            return {}
        names = self.names
        reduced: Any = self.accelerator.reduce(torch.cat(list(self.sums.values()), dim=1), reduction="sum")
        sums, counts = reduced.tolist()
        self.sums, self._kept = {}, {}
        return {name: total / count for name, total, count in zip(names, sums, counts, strict=True) if count}


class Watch:
    """Looks for the two ways in which preference training goes wrong while loss and margin only improve."""

    def __init__(self) -> None:
        self.recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self.told: set[Callable] = set()

    def __call__(self, metrics: dict[str, float]) -> list[str]:
        """What is wrong with the last reads of the meter, with a remedy; each finding is told once per run."""
        self.recent.append(metrics)
        if len(self.recent) < WINDOW:
            return []
        findings = {look: look(list(self.recent)) for look in (rising_winner_error, saturated_accuracy)}
        news = {look: finding for look, finding in findings.items() if finding and look not in self.told}
        self.told |= news.keys()
        return list(news.values())

    def held_out(self, judged: dict[str, float]) -> list[str]:
        """The same of what held-out pairs say."""
        finding = caption_shortcut(judged)
        news = [finding] if finding and caption_shortcut not in self.told else []
        self.told |= {caption_shortcut} if news else set()
        return news


def rising_winner_error(recent: list[dict[str, float]]) -> str:
    """The winner's own error drifts above the reference's: pictures are about to fall apart."""
    if not all("mse/chosen_minus_reference" in read for read in recent):  # single pictures: some reads see no winner
        return ""
    excess = [read["mse/chosen_minus_reference"] / read["mse/reference_chosen"] for read in recent]
    earlier, later = fmean(excess[: WINDOW // 2]), fmean(excess[WINDOW // 2 :])
    if not later > max(earlier, TOLERATED):
        return ""
    return (
        f"The chosen side's error is {later:.1%} above the reference's and rising (it was {earlier:.1%}): the model "
        "forgets how to draw winners. Switch the guard on (--objective.guard.mu 0.9), lower the learning rate, or "
        "stop earlier; look at the previews."
    )


def saturated_accuracy(recent: list[dict[str, float]]) -> str:
    """Every pair is already ranked right: what follows is only a wider margin."""
    if not all("rewards/accuracies" in read for read in recent):
        return ""
    accuracy = fmean(read["rewards/accuracies"] for read in recent)
    if accuracy < 0.97:
        return ""
    return (
        f"Implicit accuracy is {accuracy:.1%}: hardly a pair is left to learn from, and margins only widen. Stop "
        "here, train on more pairs, or lower the learning rate."
    )


def caption_shortcut(judged: dict[str, float]) -> str:
    """Captions alone tell the sides apart: with those exchanged and the pictures kept, the margin turns round.

    Margins are (pictures' part) + (captions' part), and exchanged captions leave the first minus the second; so the
    captions' part is more than half of the margin if what is left is negative.
    """
    margin, exchanged = judged.get("validation/rewards/margins"), judged.get("validation/captions_exchanged/margins")
    if exchanged is None or margin is None or judged["validation/rewards/accuracies"] < CLEAR or exchanged >= 0:
        return ""
    return (
        f"Captions alone explain {(margin - exchanged) / (2 * margin):.0%} of the margin on held-out pairs: the model "
        "learns to tell the two kinds of text apart, not the pictures. Write both captions in the same way "
        "(scripts/caption_pairs.py --strategy caption), perturb less, or train on the prompts."
    )
