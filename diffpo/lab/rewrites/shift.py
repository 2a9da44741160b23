"""How far a model has moved from its base, by what it writes itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.pair import PairLabels
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.loading import LoadedCausalLM

AT_ONCE = 128  # rewrites


def estimate_shift(
    model: LoadedCausalLM, base: LoadedCausalLM, asked: Sequence[str], written: Sequence[Sequence[str]]
) -> float:
    """Mean of log p(rewrite) - log p_base(rewrite) over a model's own rewrites: an estimate of KL(model || base), in
    nats a rewrite, if they were sampled at temperature 1. A rewrite that was cut counts as one that ended there.

    Args:
        written: by prompt.
    """
    texts = [(prompt, text) for prompt, each in zip(asked, written, strict=True) for text in each]
    apart = []
    for begin in range(0, len(texts), AT_ONCE):
        batch = tokenize_answers(model, texts[begin : begin + AT_ONCE])
        apart.append(log_likelihood(model, batch) - log_likelihood(base, batch))
    return torch.cat(apart).mean().item()


def tokenize_answers(model: LoadedCausalLM, texts: Sequence[tuple[str, str]]) -> TokenBatch:
    """Prompts and completions as tokens, of which those of the completions count."""
    split = [model.tokenizing(prompt, text) for prompt, text in texts]
    size = max(len(tokens.prompt) + len(tokens.completion) for tokens in split)
    ids = torch.full((1, len(split), size), model.tokenizing.pad)
    attended, scored = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for i, tokens in enumerate(split):
        begin, end = len(tokens.prompt), len(tokens.prompt) + len(tokens.completion)
        ids[0, i, :end] = torch.tensor([*tokens.prompt, *(token.id for token in tokens.completion)])
        attended[0, i, :end], scored[0, i, begin:end] = True, True
    rows = tuple(range(len(split)))
    return TokenBatch(ids, attended, scored, scored.long(), PairLabels.hard(len(split)), rows, (0,) * len(split))


@torch.no_grad()
def log_likelihood(model: LoadedCausalLM, batch: TokenBatch) -> Float[Tensor, " b"]:
    return token_logps(model.network, batch.to(model.network.device)).sum(-1)[0].cpu()
