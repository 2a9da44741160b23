"""How far a model has moved from another, by what it writes itself: offline losses never look there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel, gather_object
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded
from diffpo.data.pairs import Pairs
from diffpo.data.rows import PairRow
from diffpo.data.sampler import Visit
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.chat import Prompt
from diffpo.text.data.completions import Candidate
from diffpo.text.data.pairs import Example, FreshAnswers, TextPairs, TextReader
from diffpo.text.evaluation.sampling import gumbel, sample_tokens
from diffpo.text.model.likelihoods import token_logps

AT_ONCE = 32  # answers


@dataclass(frozen=True, eq=False)
class DistributionShift:
    """Mean of (log p(answer) - log p_reference(answer)) / tokens over answers that the policy samples, in nats.

    The distribution shift of the survey (arXiv:2503.11701): 0 where both are one, else an estimate of KL(policy ||
    reference) per token in which each answer counts alike, whatever its length. A token that ends an answer counts; an
    answer that was cut is one of so many tokens. The draws of all judgements are the same.

    Processes share the prompts in whole batches, so no answer depends on how many there are; a network that is split
    over them is asked by all for all.

    Attributes:
        fresh: how is sampled.
        prompts: as tokens.
        pad, end: tokens, see `sample_tokens`.
        base: the model before training; None if that is the run's own reference.
    """

    fresh: FreshAnswers
    prompts: Sequence[Sequence[int]]
    pad: int
    end: int
    base: Reference | None = None

    @classmethod
    def of(cls, pairs: Pairs, fresh: FreshAnswers) -> "DistributionShift":
        """On prompts of held-out pairs.

        Raises:
            Refusal: if answers leave no room for prompts in data.max_length, or prompts show pictures.
        """
        assert isinstance(pairs, TextPairs)
        tokenizing = pairs.reader.tokenizing
        return cls(fresh, pick_prompts(pairs, fresh), tokenizing.pad, tokenizing.tokenizer.eos_token_id)

    def report(self) -> str:
        """What is sampled."""
        return f"{len(self.prompts)} held-out prompts, each answered with at most {self.fresh.tokens} tokens"

    @torch.no_grad()
    def __call__(self, model: nn.Module, reference: Reference | None) -> dict[str, Float[Tensor, ""]]:
        """What a validation logs of a network in evaluation mode; every process has to call it."""
        network: Any = extract_model_from_parallel(model)
        frozen = reference if self.base is None else self.base
        assert frozen is not None
        state, numbers, together = PartialState(), range(len(self.prompts)), self.fresh.batch_size
        batches = [numbers[begin : begin + together] for begin in numbers[::together]]
        if not is_sharded(network):
            batches = batches[state.process_index :: state.num_processes]
        found = list[tuple[int, float]]()
        for some in batches:
            batch = self.answer(network, some)
            score = partial(sum_logps, batch=batch)
            apart = (score(network) - frozen(score)).double() / batch.scored[0].sum(-1)
            found += zip(some, apart.tolist(), strict=True)
        known = dict(gather_object(found))
        mean = sum(known[number] for number in numbers) / len(numbers)
        return {"shift": torch.tensor(mean, device=network.device)}

    def answer(self, network: Any, some: range) -> TokenBatch:
        """The network's own answers to some of the prompts, on its device."""
        asked = [self.prompts[number] for number in some]
        draws = Draws(self.fresh.seed, (0,) * len(some), tuple(some))
        vocabulary = network.config.get_text_config().vocab_size
        noise = (gumbel(draws, f"token {t}", vocabulary) for t in range(self.fresh.tokens))
        answers = sample_tokens(network, asked, noise, self.pad, self.end)
        return batch_answers(asked, [answer.tolist() for answer in answers], self.pad).to(network.device)


def pick_prompts(pairs: TextPairs, fresh: FreshAnswers) -> list[tuple[int, ...]]:
    """Different prompts of pairs as tokens, in an order that the seed decides.

    Raises:
        Refusal: as `DistributionShift.of`.
    """
    room, first = pairs.reader.max_length - fresh.tokens, pairs.reader.tokenizing.tokenizer.bos_token_id
    if room < 1:
        raise Refusal(
            f"validation.fresh.tokens {fresh.tokens} leave no room for prompts in data.max_length "
            f"{pairs.reader.max_length}; lower the first or raise the second."
        )
    if pairs.first(1).inputs:
        raise Refusal("validation.fresh samples answers to texts, and these prompts show pictures; set it to null.")
    visits = [Visit(0, index, table) for table, rows in enumerate(pairs.tables) for index in range(len(rows))]
    order = Draws(fresh.seed, (0,), (0,)).normal("prompts", len(visits))[0].argsort()
    found = dict[tuple[int, ...], None]()
    for number in order.tolist():
        found[pairs[visits[number]].tokens[0].cut(room, 1, first).prompt] = None
        if len(found) == fresh.prompts:
            break
    return list(found)


def batch_answers(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int) -> TokenBatch:
    """Prompts and an answer to each, as tokens, of which those of the answers count."""
    both = list(zip(prompts, answers, strict=True))
    size = max(len(prompt) + len(answer) for prompt, answer in both)
    ids = torch.full((1, len(both), size), pad)
    attended, scored = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(both):
        begin, end = len(prompt), len(prompt) + len(answer)
        ids[0, i, :end] = torch.tensor([*prompt, *answer])
        attended[0, i, :end], scored[0, i, begin:end] = True, True
    rows = tuple(range(len(both)))
    return TokenBatch(ids, attended, scored, scored.long(), PairLabels.hard(len(both)), rows, (0,) * len(both))


def estimate_kl(
    model: nn.Module, base: nn.Module, reader: TextReader, prompts: Sequence[Prompt], answers: Sequence[Candidate]
) -> float:
    """Mean of log p(answer) - log p_base(answer) over a model's own answers: an estimate of KL(model || base), in nats
    an answer, if they were sampled at temperature 1 without cuts of the distribution.

    Texts are read as training reads them; an answer that was cut counts as one that ended there.
    """
    apart = list[Tensor]()
    for begin in range(0, len(prompts), AT_ONCE):
        some = zip(prompts[begin : begin + AT_ONCE], answers[begin : begin + AT_ONCE], strict=True)
        rows = [PairRow(n, (prompt,), (answer,), scores=(0.0,)) for n, (prompt, answer) in enumerate(some)]
        batch = reader.collate([Example(row, reader(row), 0) for row in rows])
        ours, theirs = (sum_logps(network, batch.to(next(network.parameters()).device)) for network in (model, base))
        apart.append((ours - theirs).double().cpu())
    return torch.cat(apart).mean().item()


@torch.no_grad()
def sum_logps(model: nn.Module, batch: TokenBatch) -> Float[Tensor, " b"]:
    """log p(answer | prompt) of batches with one answer each."""
    return token_logps(model, batch).sum(-1)[0]
