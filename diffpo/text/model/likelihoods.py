"""Token log-likelihoods of completions, and how they add up to one number for each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.pair import PairLabels
from diffpo.core.refusal import Refusal
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.output_layer import LOGITS, output_logps


def token_logps(model: nn.Module, batch: TokenBatch, at_once: int = LOGITS) -> Float[Tensor, "k b t"]:
    """log p(token | earlier tokens) in fp32, t = s - 1 predictions, zero where a token is not scored.

    Only scored tokens get logits, some at a time, and the backward pass computes them anew, so that memory does not
    grow with tokens x vocabulary (`output_logps`). The output layer does this inside the network's own forward pass,
    which every wrapper (DDP, FSDP2) therefore sees; what comes out as logits are the log-likelihoods.

    Args:
        model: a causal language model whose output layer is the last thing it does (`require_plain_head`).
        at_once: logits that are held at a time.
    """
    targets, scored = batch.ids.flatten(0, 1)[:, 1:], batch.scored.flatten(0, 1)[:, 1:]
    head = extract_model_from_parallel(model).get_output_embeddings()
    plain = head.forward

    def likelihoods(states: Float[Tensor, "n s h"]) -> Float[Tensor, "n s 1"]:
        found = output_logps(head, plain, states[:, :-1][scored], targets[scored], at_once)
        spread = found.new_zeros(states.shape[:2])
        spread[:, :-1] = found.new_zeros(scored.shape).masked_scatter(scored, found)
        return spread[..., None]

    with forward_as(head, likelihoods):
        out = forward_logits(model, batch)
    return out[:, :-1, 0].float().unflatten(0, batch.ids.shape[:2])


def token_logits(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "k b t v"]:
    """Logits over the whole vocabulary in fp32, for methods that need the distribution of each token."""
    return forward_logits(model, batch)[:, :-1].float().unflatten(0, batch.ids.shape[:2])


def forward_logits(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "n s v"]:
    ids, attended = batch.ids.flatten(0, 1), batch.attended.flatten(0, 1).long()
    return model(input_ids=ids, attention_mask=attended, use_cache=False, **batch.inputs).logits


@contextmanager
def forward_as(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the module computes something else."""
    own = vars(module).get("forward")  # on the instance, if a library hooked it
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@torch.no_grad()
def require_plain_head(model: nn.Module, device: torch.device | str = "cpu") -> None:
    """Raise a Refusal if the network does something to its logits, or reads them elsewhere than we do."""
    ids = torch.arange(8, device=device).reshape(1, 1, 8)
    whole = torch.ones_like(ids, dtype=torch.bool)
    batch = TokenBatch(ids, whole, whole, ids, PairLabels.hard(1, device), (0,), (0,))
    ours = token_logps(model, batch)
    theirs = token_logits(model, batch).log_softmax(-1).gather(-1, ids[..., 1:, None]).squeeze(-1)
    apart = (ours - theirs).abs().max().item()
    if not apart < 0.1:
        raise Refusal(
            f"{type(model).__name__} changes its logits after the output layer (log-likelihoods by {apart:.2g}) "
            "as models with soft-capped or scaled logits do; name another base."
        )
