"""Answers sampled from a language model, token by token, with draws of their own whatever the batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from diffpo.core.draws import Draws


def gumbel(draws: Draws, name: str, *shape: int) -> Float[Tensor, "n ..."]:
    """Gumbel noise: argmax of logits plus such noise is a sample of their softmax.

    Models that agree about a token so choose the same one, which makes their comparison less noisy.
    """
    uniform = torch.special.ndtr(draws.normal(name, *shape).double())
    return -(-uniform.log()).log()


@torch.no_grad()
def sample_tokens(
    network: Any, prompts: Sequence[Sequence[int]], noise: Iterable[Float[Tensor, "n v"]], pad: int, end: int
) -> list[Int[Tensor, " s"]]:
    """Tokens after each prompt, the likeliest ones under logits plus noise, on the CPU.

    Args:
        network: a causal language model in evaluation mode, as transformers has it.
        prompts: as tokens.
        noise: of each token in turn; an answer that has not ended after the last is cut.
        pad: what fills up prompts on the left; it is masked.
        end: the token that ends an answer, as the last of its tokens.
    """
    device, longest = network.device, max(map(len, prompts))
    fed = torch.tensor([[*[pad] * (longest - len(prompt)), *prompt] for prompt in prompts], device=device)
    attended = (
        (torch.arange(longest) >= longest - torch.tensor([[len(prompt)] for prompt in prompts])).long().to(device)
    )
    chosen, cache = list[Tensor](), DynamicCache(config=network.config)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in noise:
        positions = (attended.cumsum(-1) - 1).clamp(min=0)[:, -fed.shape[1] :]
        said = network(fed, attended, positions, cache, use_cache=True)  # releases name the cache differently
        fed = (said.logits[:, -1].float() + step.to(device, torch.float32)).argmax(-1, keepdim=True)
        attended = torch.cat([attended, torch.ones_like(fed)], dim=1)
        chosen.append(fed)
        ended |= fed[:, 0] == end
        if ended.all():
            break
    tokens = torch.cat(chosen, dim=1).cpu()
    before = (tokens == end).cumsum(1) - (tokens == end).long()  # ends before a token
    return [row[: int((ends == 0).sum())] for row, ends in zip(tokens, before, strict=True)]
