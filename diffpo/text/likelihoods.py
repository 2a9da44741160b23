"""Log-likelihoods of pairs under two models, for what is measured after training."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core import PairLogps
from diffpo.order import Pick
from diffpo.refusal import require_at_least
from diffpo.text.data import TextPairs
from diffpo.text.loading import LoadedCausalLM
from diffpo.text.sequences import SumTokens, token_logps


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
        batch = pairs.reader.collate([pairs[Pick(0, int(i))] for i in some]).to(torch.device(device))
        weights = SumTokens().weights(batch)
        for network, found in zip(networks, logps, strict=True):
            found.append((weights * token_logps(network, batch)).sum(-1).cpu())
        lengths.append(weights.sum(-1).cpu())
        probs.append(batch.label.prob.cpu())
    trained, frozen, length = (torch.cat(found, dim=1) for found in (*logps, lengths))
    return PairLogps(trained, frozen, length), torch.cat(probs)
