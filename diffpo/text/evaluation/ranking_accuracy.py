"""How often a model ranks pairs right, and how often it could ("Preference Learning Algorithms Do Not Learn Preference
Rankings", arXiv:2405.19534, github.com/angie-chen55/pref-learning-ranking-acc): from log-likelihoods alone.

From definitions; the released code's branch without length normalization divides where it should not. Of pictures
there are no likelihoods; the same numbers of denoising errors would tell of errors, not of rankings.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.refusal import require_at_least
from diffpo.data.sampler import Visit
from diffpo.losses.combined import Wrapper
from diffpo.text.data.pairs import TextPairs
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.loading import LoadedCausalLM
from diffpo.text.objective.preference import SumTokens

TIE = 0.01  # a tie of the annotators is ranked right if the log-likelihoods differ by less

CERTAIN = 0.001  # share that is taken to prefer the loser where all prefer the winner


def ranked_right(logps: Float[Tensor, "k b"], prob: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """Whether the candidates stand in their order (best first), all of them if there are more than two.

    Args:
        prob: share of annotators who prefer the chosen side; at 1/2 the two should be equally likely.
    """
    steps = logps[:-1] - logps[1:]
    return torch.where(prob == 0.5, (steps.abs() < TIE).all(0), (steps >= 0).all(0))


def idealized(reference: Float[Tensor, "2 b"], prob: Float[Tensor, " b"], beta: float) -> Bool[Tensor, " b"]:
    """Whether the exact minimizer of DPO would rank a pair right: log-ratio of the reference + logit(prob) / beta > 0.

    Args:
        reference: its log-likelihoods; those per token give the length-normalized form.
    """
    chosen, rejected = reference
    return chosen - rejected + prob.clamp(max=1 - CERTAIN).logit() / beta > 0


def difficulty(pair: PairLogps) -> Float[Tensor, " b"]:
    """c = log p_ref(rejected) - log p_ref(chosen): positive where the reference ranks the pair wrong."""
    chosen, rejected = pair.reference
    return rejected - chosen


def dpo_bound(pair: PairLogps, beta: float) -> Float[Tensor, " b"]:
    """-log sigmoid(beta c): a pair is ranked right if and only if its DPO loss is not greater."""
    return -logsigmoid(beta * difficulty(pair))


def ipo_bound(pair: PairLogps, beta: float) -> Float[Tensor, " b"]:
    """(1 / (2 beta) - c)^2: a smaller IPO loss ranks a pair right; NaN where 1 / (2 beta) < c, so that even a loss of
    zero ranks it wrong."""
    room = 1 / (2 * beta) - difficulty(pair)
    return torch.where(room >= 0, room.square(), torch.nan)


@dataclass(frozen=True)
class ReferenceShare(Wrapper):
    """A loss against the reference's log-likelihoods times `gamma`: 1 is the inner loss, 0 is without reference.

    The interpolated objective of the paper, there with gamma from 0 to 2.
    """

    gamma: float = 1.0

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return self.inner(replace(pair, reference=self.gamma * pair.reference), label)


def accuracies(pair: PairLogps, prob: Float[Tensor, " b"], betas: tuple[float, ...]) -> dict[str, float]:
    """The table of a model: fractions of pairs, NaN where there is no such pair. Drop pairs of equal answers before.

    Names: `ranking` (the policy's), `ranking_reference`, the same `_per_token` (log-likelihoods divided by length),
    `ranking_idealized/<beta>` (what exact DPO would reach), `reward` (the margin is positive, what training logs),
    `reference_wrong` (difficulty > 0), `flipped` (of those, ranked right by the policy), `kept` (of the others).
    """
    per_token = PairLogps(pair.policy / pair.length, pair.reference / pair.length, torch.ones_like(pair.length))
    found: dict[str, Tensor] = {}
    for form, logps in (("", pair), ("_per_token", per_token)):
        found[f"ranking{form}"] = ranked_right(logps.policy, prob)
        found[f"ranking_reference{form}"] = ranked_right(logps.reference, prob)
        for beta in betas:
            found[f"ranking_idealized{form}/{beta:g}"] = idealized(logps.reference, prob, beta)
    wrong, right = difficulty(pair) > 0, found["ranking"]
    found |= {"reward": pair.margin > 0, "reference_wrong": wrong, "flipped": right[wrong], "kept": right[~wrong]}
    return {name: float(values.float().mean()) for name, values in found.items()}


@torch.no_grad()
def of_pairs(
    policy: LoadedCausalLM,
    reference: LoadedCausalLM,
    pairs: TextPairs,
    count: int,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> tuple[PairLogps, Float[Tensor, " b"]]:
    """What both models say of the first pairs, and P(chosen wins) of each.

    Args:
        count: pairs of the first table; all of them if there are fewer.
        batch_size: pairs that are read at a time.

    Raises:
        Refusal: if a number is not positive.
    """
    require_at_least(1, count=count, batch_size=batch_size)
    networks = [model.network.to(device).eval() for model in (policy, reference)]
    logps: list[list[Tensor]] = [[], []]
    lengths, probs = [], []
    numbers = torch.arange(min(count, len(pairs.tables[0])))
    for some in numbers.split(batch_size):
        batch = pairs.reader.collate([pairs[Visit(0, int(i))] for i in some]).to(torch.device(device))
        weights = SumTokens().weights(batch)
        for network, found in zip(networks, logps, strict=True):
            found.append((weights * token_logps(network, batch)).sum(-1).cpu())
        lengths.append(weights.sum(-1).cpu())
        probs.append(batch.label.prob.cpu())
    trained, frozen, length = (torch.cat(found, dim=1) for found in (*logps, lengths))
    return PairLogps(trained, frozen, length), torch.cat(probs)
