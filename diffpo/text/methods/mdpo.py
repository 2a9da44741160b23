"""mDPO: preferences between answers about a picture, and between the pictures that an answer is about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates, Need
from diffpo.core.objective import Objective, Requirements, Step, pair_step, rewards
from diffpo.core.pair import PairLogps
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal, require_positive
from diffpo.data.rows import PairRow
from diffpo.losses.logistic import Sigmoid
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.pictures import PictureAnswer
from diffpo.text.model.likelihoods import token_logps

CORRUPTED = "diffpo.text.CorruptedPicture"


@dataclass(frozen=True)
class MDPO(Objective):
    """mDPO (arXiv:2406.11839, github.com/luka-group/mDPO): DPO, a preference between pictures, and an anchor.

    Rows have three candidates: the chosen answer, the rejected one, and the chosen one about a corrupted picture
    (`diffpo.text.CorruptedPicture`). With h_w, h_l, h_c their log-ratios to the reference, sums over tokens,

        loss = -log sigmoid(beta (h_w - h_l)) - conditional log sigmoid(beta (h_w - h_c))
               - anchor log sigmoid(beta h_w - delta).

    Weights of one and delta 0 are paper and code. The code draws its crop in each forward pass, so that policy and
    reference see different ones; here it belongs to the row. A soft label is one of the answers, not of the pictures.

    Args:
        beta: of all three terms.
        conditional: weight of the preference between pictures.
        anchor: weight of the term that keeps the chosen answer from becoming less likely than it was.
        delta: the reward that the anchor asks for.

    Raises:
        Refusal: if `beta` is not positive, or the batch holds no pictures.
    """

    learns_from: ClassVar[str] = "texts"
    beta: float = 0.1
    conditional: float = 1.0
    anchor: float = 1.0
    delta: float = 0.0

    def __post_init__(self):
        require_positive(self, beta=self.beta)

    @property
    def requires(self) -> Requirements:
        pictures = Need("MDPO", "answers about pictures", all_seen, f"end data.rows with {CORRUPTED}")
        three = Candidates(3, 3, f"end data.rows with {CORRUPTED}")
        return Requirements(three, (pictures,), cacheable_by="sums of tokens")

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch, draws: Draws) -> Step:
        if not batch.inputs:
            raise Refusal("MDPO compares answers about pictures, the batch has none; use diffpo.text.VisionLM.")

        def logp(model: nn.Module) -> Float[Tensor, "k b"]:
            return token_logps(model, batch).sum(-1)

        frozen = reference(logp)  # first: it keeps no activations, so it adds nothing to the policy's peak memory
        candidates = PairLogps(logp(policy), frozen, length=batch.scored[..., 1:].sum(-1).float())
        answers, pictures = pick_two(candidates, 0, 1), pick_two(candidates, 0, 2)
        label, certain = replace(batch.label, score=batch.label.score[:2]), torch.ones_like(batch.label.prob)
        loss = Sigmoid(self.beta)
        step = pair_step(loss, answers, label)
        conditional = loss(pictures, replace(label, prob=certain))
        anchor = -logsigmoid(self.beta * candidates.log_ratio[0] - self.delta)
        added = label.weight * (self.conditional * conditional + self.anchor * anchor)
        return Step(step.loss + added.mean(), step.metrics | self.curves(pictures))

    def curves(self, pictures: PairLogps) -> dict[str, Tensor]:
        """Whether the answer follows from the picture."""
        found = rewards(self.beta * pictures.log_ratio)
        names = {"rejected": "corrupted", "margins": "conditional_margins", "accuracies": "conditional_accuracies"}
        return {f"rewards/{name}": found[f"rewards/{side}"] for side, name in names.items()}


def all_seen(rows: Sequence[PairRow]) -> bool:
    return all(isinstance(candidate, PictureAnswer) for row in rows for candidate in row.candidates)


def pick_two(candidates: PairLogps, better: int, worse: int) -> PairLogps:
    """Two of the candidates as a pair."""
    two = [better, worse]
    return PairLogps(candidates.policy[two], candidates.reference[two], candidates.length[two])
