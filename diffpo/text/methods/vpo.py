"""VPO (arXiv:2405.19320), online: DPO on own answers that explores away from what the reference says."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.pair import PairLogps
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.text.data.batches import TokenBatch
from diffpo.text.objective.preference import SequencePreference


@dataclass(frozen=True)
class VPO(Objective):
    """A pairwise loss plus alpha beta max(h(y_cal), floor), h = log p - log p_ref of a sample of the reference.

    The sample is the third candidate of a row (`diffpo.rounds.WithCalibration`). Lowering its likelihood makes room
    for answers that the reference seldom gives; the term is unbounded below, so a sample whose log-ratio has come down
    to the floor teaches no more. Offline, the sign is the other one and the sample the chosen answer: that is
    `diffpo.losses.RPO`. No code is public: alpha and the floor are ours.

    Args:
        pairs: what is minimised on the first two candidates; its loss has a reference.
        alpha: 0 is `pairs`.
        floor: in nats an answer.

    Raises:
        Refusal: if `alpha` or `-floor` is negative, or the loss has no reference.
    """

    learns_from: ClassVar[str] = "texts"
    pairs: SequencePreference = field(default_factory=SequencePreference)
    alpha: float = 0.01
    floor: float = -10.0

    def __post_init__(self):
        require_at_least(0, alpha=self.alpha, **{"-floor": -self.floor})
        if not self.pairs.loss.needs_reference:
            raise Refusal(f"VPO is held to a reference, {type(self.pairs.loss).__name__} has none; use Sigmoid.")

    @property
    def requires(self) -> Requirements:
        three = Candidates(3, 3, "sample the third one of the base, and pair by diffpo.rounds.WithCalibration")
        return replace(self.pairs.requires, candidates=three)

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        three, label = self.pairs.pair(policy, reference, batch), batch.label
        two = PairLogps(three.policy[:2], three.reference[:2], length=three.length[:2])
        step = self.pairs.judged(two, replace(batch, label=replace(label, score=label.score[:2])))
        ratio = three.log_ratio[2]
        held = self.alpha * self.pairs.loss.beta * (label.weight * ratio.clamp(min=self.floor)).mean()
        return Step(step.loss + held, step.metrics | {"calibration": ratio.detach()})
