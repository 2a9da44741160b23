"""Rationales: the model also learns to say why the chosen answer is better (RDPO and RORPO, arXiv:2407.14477)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.pair import PairLogps, PairLoss
from diffpo.core.references import Reference
from diffpo.losses.likelihood import ChosenNLL
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import SequencePreference
from diffpo.text.objective.selecting import take_between


@dataclass(frozen=True)
class RationalePreference(Objective):
    """L(chosen, rejected) - gamma log p(rationale | prompt, both answers); the reference does not see the rationale.

    RDPO is `base` with the sigmoid loss, RORPO with `ORPO`. The authors' code
    (github.com/reds-lab/preference-learning-with-rationales) instead has -log sigmoid(gamma sum log p) with gamma 0.1
    for RDPO; ours is the paper's form. Its sums grow with the length of rationales, so the mean over tokens is the
    default here, and gamma belongs to it.

    Args:
        base: L.
        gamma: weight of the rationale; 2 in the paper (10 for RORPO), where 1 to 10 are compared.
        rationale: of a rationale's log-likelihood; ChosenTotalNLL is the paper's sum over tokens.
    """

    learns_from: ClassVar[str] = "texts"
    base: SequencePreference = field(default_factory=SequencePreference)
    gamma: float = 2.0
    rationale: PairLoss = field(default_factory=ChosenNLL)

    @property
    def requires(self) -> Requirements:
        reasons = Candidates(3, 3, "end data.rows with diffpo.text.WithRationale")
        return replace(self.base.requires, candidates=reasons, cacheable_by=None)

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        preferred = self.base(policy, reference, take_between(batch, 0, 2), draws)
        reasons = take_between(batch, 2, 3)
        said = token_logps(policy, reasons).sum(-1)
        pair = PairLogps(said, torch.zeros_like(said), length=reasons.scored[..., 1:].sum(-1).float())
        error = self.rationale(pair, reasons.label)
        loss = preferred.loss + self.gamma * (batch.label.weight * error).mean()
        return Step(loss, preferred.metrics | {"rationale/nll": error.detach()})
