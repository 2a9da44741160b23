"""Supervised fine-tuning on winners: the baseline every preference method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.pair import PairLogps
from diffpo.core.references import Reference
from diffpo.losses.likelihood import ChosenNLL
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import SumTokens


@dataclass(frozen=True)
class SFT(Objective):
    """-log p(chosen | prompt) / |chosen|, |chosen| in tokens; rejected completions are not computed.

    Each row counts alike, however long its completion is; rows can be single completions.
    """

    learns_from: ClassVar[str] = "texts"

    @property
    def requires(self) -> Requirements:
        return Requirements(Candidates(1), answers=())

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        best = batch.best()
        weights = SumTokens().weights(best)
        logp = (weights * token_logps(policy, best)).sum(-1)
        loss = ChosenNLL()(PairLogps(logp, torch.zeros_like(logp), length=weights.sum(-1)), best.label)
        return Step((best.label.weight * loss).mean(), {"logps/chosen": logp[0].detach(), "nll/chosen": loss.detach()})
