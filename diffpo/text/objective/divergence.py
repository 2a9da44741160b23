"""How far two models are apart at each token: the divergence between their distributions over the vocabulary."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffpo.core.references import Reference
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import LOGITS, forward_as, forward_logits
from diffpo.text.model.states import head_of


class Compared(NamedTuple):
    """What two models say of each predicted token, in fp32, zero where it is not scored.

    Attributes:
        policy: log p(token | earlier tokens) under the policy.
        reference: the same under the reference, without gradient.
        divergence: KL(reference || policy) in nats, over the whole vocabulary; zero where it was not asked for.
    """

    policy: Float[Tensor, "k b t"]
    reference: Float[Tensor, "k b t"]
    divergence: Float[Tensor, "k b t"]


def compare_tokens(
    policy: nn.Module, reference: Reference, batch: TokenBatch, where: Bool[Tensor, "k b t"], at_once: int = LOGITS
) -> Compared:
    """Both models at the scored tokens of a batch, with one pass of each.

    No distribution is kept: of the reference its last states are, and from them and the policy's own both
    distributions are computed for some tokens at a time, in the policy's output layer and again in the backward pass.

    Args:
        where: which tokens need the divergence.
        at_once: logits that are held at a time, by each model.
    """
    head: Any = head_of(policy)
    scored = batch.scored[..., 1:]
    rows, tokens, asked = scored.flatten(0, 1), batch.ids[..., 1:][scored], where[scored]
    plain = head.forward

    def wanted(states: Float[Tensor, "m s h"]) -> Float[Tensor, "1 n h"]:
        return states[:, :-1][rows][None]

    def states(model: nn.Module) -> Float[Tensor, "n h"]:
        with forward_as(head_of(model), wanted):
            return forward_logits(model, batch)[0]

    frozen = reference(states)

    def piece(
        states: Float[Tensor, "n h"], frozen: Float[Tensor, "n h"], token: Int[Tensor, " n"], asked: Bool[Tensor, " n"]
    ) -> Float[Tensor, "n 3"]:
        logits = plain(states).float(), reference(lambda model: head_of(model)(frozen)).float()
        log_p, log_r = (x - x.logsumexp(-1, keepdim=True) for x in logits)
        divergence = (log_r[asked].exp() * (log_r[asked] - log_p[asked])).sum(-1)
        spread = torch.zeros_like(log_p[:, 0]).masked_scatter(asked, divergence)
        return torch.stack([*(x.gather(-1, token[:, None])[:, 0] for x in (log_p, log_r)), spread], -1)

    def pieces(states: Float[Tensor, "m s h"]) -> Float[Tensor, "1 n 3"]:
        size = max(1, at_once // head.weight.shape[0])
        every = zip(*(x.split(size) for x in (wanted(states)[0], frozen, tokens, asked)), strict=True)
        with forward_as(head, plain):  # the reference may be this very network, its adapters switched off
            return torch.cat([checkpoint(piece, *part, use_reentrant=False) for part in every])[None]

    with forward_as(head, pieces):
        found = forward_logits(policy, batch)[0]
    blank = torch.zeros(scored.shape, device=found.device)
    trained, fixed, divergence = (blank.masked_scatter(scored, values) for values in found.unbind(-1))
    return Compared(trained, fixed.detach(), divergence)
