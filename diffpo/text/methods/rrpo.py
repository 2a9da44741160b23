"""RRPO: only the phrases that differ are compared, and the chosen answer stays near the reference."""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step, pair_step
from diffpo.core.pair import PairLogps, PairLoss
from diffpo.core.references import Reference
from diffpo.losses.logistic import Sigmoid
from diffpo.text.data.batches import TokenBatch
from diffpo.text.objective.divergence import compare_tokens
from diffpo.text.objective.preference import Reduce, require_of_texts


@dataclass(frozen=True)
class MarkedTokens(Reduce):
    """Tokens of marked spans (`TokenBatch.part` above 0) count alike, others not at all."""

    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        return (batch.scored & (batch.part > 0))[..., 1:].float()


@dataclass(frozen=True)
class RRPO(Objective):
    """-log sigmoid(beta (u_w - u_l)) + alpha sum_t KL(reference || policy) on y_w (arXiv:2504.12083).

    u sums the log-ratios of the tokens in marked spans, the phrases in which two answers differ, and t runs over all
    tokens of the chosen answer: the divergence is a sum in nats, so alpha is tied to it, not to a mean. From the
    authors' code (github.com/pritamqu/RRPO), for three video models: beta 0.1, 0.5, 0.9; alpha 0.01, 0.05, 0.01.
    As there, the divergence is added; printed inside the negated bracket, it would reward moving away.

    Spans come from the row maps of `diffpo.text.data.row_maps`; an unmarked text counts whole, so that with alpha 0
    this is DPO. Both models give their distribution over the vocabulary at each scored token.

    Args:
        loss: of the marked tokens' log-likelihoods.
        alpha: weight of the divergence.
        reduce: which tokens are compared.

    Raises:
        Refusal: if the loss needs the errors of a denoiser.
    """

    learns_from: ClassVar[str] = "texts"
    loss: PairLoss = field(default_factory=Sigmoid)
    alpha: float = 0.01
    reduce: Reduce = field(default_factory=MarkedTokens)

    def __post_init__(self):
        require_of_texts(self.loss)

    @property
    def requires(self) -> Requirements:
        return Requirements.of(self.loss)

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch, draws: Draws) -> Step:
        weights, chosen = self.reduce.weights(batch), batch.scored[..., 1:].clone()
        chosen[1:] = False
        both = compare_tokens(policy, reference, batch, where=chosen)
        sums = ((weights * logps).sum(-1) for logps in (both.policy, both.reference))
        step = pair_step(self.loss, PairLogps(*sums, length=weights.sum(-1)), batch.label)
        divergence = both.divergence[0].sum(-1)
        kept = self.alpha * (batch.label.weight * divergence).mean()
        return Step(step.loss + kept, step.metrics | {"divergence/chosen": divergence.detach()})
