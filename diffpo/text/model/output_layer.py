"""log p(token) from the states that enter an output layer, without ever holding the logits of all of them."""

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

LOGITS = 2**24  # held at a time: 64 MiB in fp32, 16,384 words of the vocabulary for each of 1,024 tokens


def output_logps(
    head: Any,
    forward: Callable[[Tensor], Tensor],
    states: Float[Tensor, "m h"],
    tokens: Int[Tensor, " m"],
    at_once: int = LOGITS,
) -> Float[Tensor, " m"]:
    """log p(token) in fp32. Where all logits are too many, some are computed at a time, and anew in the backward pass.

    A plain linear layer takes blocks of the vocabulary (`LinearLogps`). Any other (quantized, with an adapter, hooked
    by a library) is known by its forward pass alone and takes groups of tokens, each checkpointed.

    Args:
        head: the output layer.
        forward: its forward pass.
        at_once: logits that are held at a time.
    """

    def logps(states: Float[Tensor, "m h"], tokens: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        logits = forward(states).float()
        return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)

    size = max(1, at_once // head.weight.shape[0])
    if len(tokens) <= size:
        return logps(states, tokens)
    own = forward == MethodType(nn.Linear.forward, head)
    if own and type(head.weight) is nn.Parameter:  # not a quantized or distributed tensor
        return LinearLogps.apply(states, head.weight, head.bias, tokens, at_once)
    pieces = zip(states.split(size), tokens.split(size), strict=True)
    return torch.cat([checkpoint(logps, *piece, use_reentrant=False) for piece in pieces])


class LinearLogps(torch.autograd.Function):
    """log softmax(W state + b)[token] and its gradients, by blocks of the vocabulary.

    d log p(token) / d logit_v = 1[v = token] - p_v. The backward pass turns a block's logits into this in place, from
    which the block's rows of the gradient of W follow at once and are written once, and the states' gradient is summed
    up. Beside one block it holds the gradient of each input that needs one, and no graph.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Float[Tensor, "m h"],
        weight: Float[Tensor, "v h"],
        bias: Float[Tensor, " v"] | None,
        tokens: Int[Tensor, " m"],
        at_once: int,
    ) -> Float[Tensor, " m"]:
        said, totals = torch.zeros_like(tokens, dtype=torch.float32), []
        for block in split_vocabulary(states, weight, at_once):
            logits = linear(states, weight[block], None if bias is None else bias[block]).float()
            inside, place = find_in_block(tokens, block)
            said = torch.where(inside, logits.gather(-1, place[:, None]).squeeze(-1), said)
            totals.append(logits.logsumexp(-1))
        total = torch.stack(totals).logsumexp(0)
        device = states.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.at_once = at_once
        ctx.save_for_backward(states, weight, bias, tokens, total)
        return said - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, " m"]) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens, total = ctx.saved_tensors
        trains_states, trains_weight, trains_bias, *_ = ctx.needs_input_grad
        to_states = torch.zeros_like(states, dtype=torch.float32) if trains_states else None
        to_weight = torch.empty_like(weight) if trains_weight else None
        to_bias = torch.empty_like(bias) if trains_bias else None
        with torch.autocast(*ctx.autocast):
            for block in split_vocabulary(states, weight, ctx.at_once):
                logits = linear(states, weight[block], None if bias is None else bias[block])
                inside, place = find_in_block(tokens, block)
                change = logits.float().sub_(total[:, None]).exp_()
                change.scatter_add_(-1, place[:, None], -inside[:, None].float()).mul_(-slope[:, None])
                if to_bias is not None:
                    to_bias[block] = change.sum(0)
                change = change.to(logits.dtype)
                if to_states is not None:
                    to_states += change @ weight[block]
                if to_weight is not None:
                    to_weight[block] = change.T @ states
        return None if to_states is None else to_states.to(states.dtype), to_weight, to_bias, None, None


def split_vocabulary(states: Float[Tensor, "m h"], weight: Float[Tensor, "v h"], at_once: int) -> Iterator[slice]:
    """Of the vocabulary, such that at most that many logits are held."""
    size = max(1, at_once // max(1, len(states)))
    return (slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size))


def find_in_block(tokens: Int[Tensor, " m"], block: slice) -> tuple[Tensor, Tensor]:
    """Which tokens are in a block, and where in it; those that are not get some place."""
    inside = (tokens >= block.start) & (tokens < block.stop)
    return inside, (tokens - block.start).clamp(0, block.stop - block.start - 1)
