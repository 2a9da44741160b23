"""HyPO (arXiv:2406.01462): DPO on offline pairs, held to the reference on the policy's own answers."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.pair import PairLabels
from diffpo.core.references import SCORES, Reference
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.core.sharding import is_sharded
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.sampling import decode_answers, invert_distribution
from diffpo.text.objective.preference import SequencePreference, SumTokens


@dataclass(frozen=True)
class HyPO(Objective):
    """A pairwise loss plus lam KL(policy || reference), estimated on k answers that the policy samples to each prompt.

    The estimate of its gradient is mean_i (kappa_i - mean of the others) grad log p(y_i), kappa = log p - log p_ref,
    summed over tokens, the end included (REINFORCE with a leave-one-out baseline). Answers are sampled at temperature
    1 without cuts of the distribution, or kappa would be of another policy. The paper's code was not at hand: lam and
    k are as summaries tell them, and `every` is ours.

    Args:
        pairs: what is minimised on the offline pairs.
        lam: weight of the divergence in nats; 0 is `pairs`, at the price of sampling.
        k: answers to each prompt of a batch.
        every: steps between two estimates, each of which counts so many times: the expected gradient stays.
        tokens: at most so many of an answer; one that has not ended by then is cut, and its beginning counts.

    Raises:
        Refusal: if a number is out of its range; in training, if weights are sharded over processes, or the model does
            not say which token ends an answer.
    """

    learns_from: ClassVar[str] = "texts"
    pairs: SequencePreference = field(default_factory=SequencePreference)
    lam: float = 1e-4
    k: int = 2
    every: int = 1
    tokens: int = 64

    def __post_init__(self):
        require_at_least(0, lam=self.lam)
        require_at_least(1, every=self.every, tokens=self.tokens)
        require_at_least(2, k=self.k)

    @property
    def requires(self) -> Requirements:
        own = self.pairs.requires
        return replace(own, answers=(*own.answers, SCORES), cacheable_by=None)

    def after(self, steps: int) -> Objective:
        return self if steps % self.every == 0 else self.pairs

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        assert reference is not None
        step, own = self.pairs(policy, reference, batch, draws), self.sample(policy, batch, draws)
        weights = SumTokens().weights(own)

        def logp(model: nn.Module) -> Float[Tensor, "k b"]:
            return (weights * token_logps(model, own)).sum(-1)

        frozen, logps = reference(logp), logp(policy)
        held = self.lam * self.every * estimate_divergence(logps, frozen).mean()
        return Step(step.loss + held, step.metrics | {"kl": (logps - frozen).detach().mean(0)})

    def sample(self, policy: nn.Module, batch: TokenBatch, draws: Draws) -> TokenBatch:
        """k answers to each prompt of a batch."""
        network: Any = extract_model_from_parallel(policy)
        if is_sharded(network):
            raise Refusal("HyPO samples answers in its step, which sharded weights cannot; train without FSDP2.")
        if (ends := network.generation_config.eos_token_id) is None:
            raise Refusal("The model's generation config names no token that ends an answer; add eos_token_id to it.")
        begins = batch.scored[0].int().argmax(-1).tolist()
        prompts = [row[:begin].tolist() for row, begin in zip(batch.ids[0], begins, strict=True)]
        numbers = torch.stack([draws.uniforms(f"hypo/{i}", self.tokens) for i in range(self.k)], dim=1)
        last = ends if isinstance(ends, list) else [ends]
        said = decode_answers(policy, prompts, numbers, invert_distribution, pad=last[0], ends=last)
        return lay_out_answers(prompts, said, self.k, batch)


def lay_out_answers(prompts: list[list[int]], said: list[list[int]], k: int, batch: TokenBatch) -> TokenBatch:
    """A batch of answers as tokens, those of one prompt together, after their prompts."""
    rows = [(prompts[n // k], answer) for n, answer in enumerate(said)]
    size = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, scored = torch.zeros(len(rows), size, dtype=torch.long), torch.zeros(len(rows), size, dtype=torch.bool)
    attended = torch.zeros_like(scored)
    for n, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[n, :end] = torch.tensor([*prompt, *answer])
        scored[n, len(prompt) : end], attended[n, :end] = True, True
    ids, attended, scored = (x.unflatten(0, (len(prompts), k)).transpose(0, 1) for x in (ids, attended, scored))
    label = PairLabels.hard(len(prompts))
    return TokenBatch(ids, attended, scored, scored.long(), label, batch.row, batch.epoch).to(batch.ids.device)


def estimate_divergence(logps: Float[Tensor, "k b"], frozen: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """What has, in expectation over samples, the gradient of KL(policy || reference); its value means nothing."""
    kappa = (logps - frozen).detach()
    coefficients = kappa - (kappa.sum(0) - kappa) / (len(kappa) - 1)
    return (coefficients * logps).mean(0)
