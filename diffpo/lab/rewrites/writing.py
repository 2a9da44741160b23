"""Rewrites sampled from a language model with draws of their own, whatever the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class Writing:
    """How rewrites are sampled; the same for every model.

    Args:
        rewrites: per prompt.
        temperature: of the softmax.
        tokens: at most so many; a rewrite that has not ended by then is cut.
        seed: of the draws. All models get the same ones, so what differs between rewrites is due to the models.
        batch_size: rewrites at a time; it changes speed only.

    Raises:
        Refusal: if a count or the temperature is not positive.
    """

    rewrites: int = 8
    temperature: float = 1.0
    tokens: int = 32
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self):
        if min(self.rewrites, self.temperature, self.tokens, self.batch_size) <= 0:
            raise Refusal(f"Writing needs positive counts and a positive temperature, got {self}.")


def write(
    model: Any, tokenizer: Any, prompts: Sequence[str], writing: Writing, title: str | None = None
) -> list[list[str]]:
    """Rewrites of each prompt, sampled by the Gumbel-max trick: argmax of log-probabilities plus keyed Gumbel noise.

    Models that agree about a token so choose the same one, which makes their comparison less noisy.

    Args:
        title: shown on a progress bar; None shows none.
    """
    asked = [prompt for prompt in prompts for _ in range(writing.rewrites)]
    written: list[str] = []
    for begin in tqdm(range(0, len(asked), writing.batch_size), desc=title, disable=title is None):
        some = asked[begin : begin + writing.batch_size]
        rows = tuple(range(begin, begin + len(some)))
        noise = gumbel(Draws(writing.seed, (0,) * len(some), rows), writing.tokens, model.config.vocab_size)
        written += tokenizer.batch_decode(
            sample_tokens(model, tokenizer, some, writing.temperature * noise), skip_special_tokens=True
        )
    return [written[begin : begin + writing.rewrites] for begin in range(0, len(written), writing.rewrites)]


def gumbel(draws: Draws, tokens: int, vocabulary: int) -> Float[Tensor, "n t v"]:
    uniform = torch.special.ndtr(draws.normal("tokens", tokens, vocabulary).double())
    return -(-uniform.log()).log()


@torch.no_grad()
def sample_tokens(
    model: Any, tokenizer: Any, prompts: list[str], noise: Float[Tensor, "n t v"]
) -> list[Int[Tensor, " s"]]:
    """Tokens after each prompt up to the end of its rewrite, the likeliest ones under logits plus noise."""
    device = model.device
    asked = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(device)
    fed, attended, chosen = asked.input_ids, asked.attention_mask, list[Tensor]()
    cache = DynamicCache(config=model.config)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in noise.to(device, torch.float32).unbind(1):
        positions = (attended.cumsum(-1) - 1).clamp(min=0)[:, -fed.shape[1] :]
        said = model(fed, attended, positions, cache, use_cache=True)  # releases name the cache differently
        fed = (said.logits[:, -1].float() + step).argmax(-1, keepdim=True)
        attended = torch.cat([attended, torch.ones_like(fed)], dim=1)
        chosen.append(fed)
        ended |= fed[:, 0] == tokenizer.eos_token_id
        if ended.all():
            break
    tokens = torch.cat(chosen, dim=1).cpu()
    return [row[: int(((row == tokenizer.eos_token_id).cumsum(0) == 0).sum())] for row in tokens]
