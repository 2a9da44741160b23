"""How far a model has moved from its base, by the rewrites that it writes itself."""

from collections.abc import Sequence

import torch

from diffpo.text.data.batches import TokenBatch
from diffpo.text.evaluation.shift import batch_answers, sum_logps
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
        ours, theirs = (sum_logps(each.network, batch.to(each.network.device)).cpu() for each in (model, base))
        apart.append(ours - theirs)
    return torch.cat(apart).mean().item()


def tokenize_answers(model: LoadedCausalLM, texts: Sequence[tuple[str, str]]) -> TokenBatch:
    """Prompts and completions as tokens, of which those of the completions count."""
    split = [model.tokenizing(prompt, text) for prompt, text in texts]
    answers = [[token.id for token in tokens.completion] for tokens in split]
    return batch_answers([tokens.prompt for tokens in split], answers, model.tokenizing.pad)
