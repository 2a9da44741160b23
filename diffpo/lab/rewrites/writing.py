"""Rewrites sampled from a language model with draws of their own, whatever the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.text.evaluation.sampling import gumbel, sample_tokens


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
        noise = gumbel(Draws(writing.seed, (0,) * len(some), rows), "tokens", writing.tokens, model.config.vocab_size)
        steps = (writing.temperature * noise).unbind(1)
        ids = tokenizer(some).input_ids
        tokens = sample_tokens(model, ids, steps, tokenizer.pad_token_id, tokenizer.eos_token_id)
        written += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [written[begin : begin + writing.rewrites] for begin in range(0, len(written), writing.rewrites)]
