"""Answers sampled from a language model: one keyed uniform number per token, whatever the batch.

What is promised: in fp32 an answer depends on (seed, round, row, candidate) and on the model, but for a token whose
number lies within rounding (about 1e-6) of the border of two tokens, where another batch may choose the neighbor. The
same call gives the same bits. In bf16 borders move by about 1e-2, and so do answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.rounds.roles import Sampled, Sampler
from diffpo.text.data.chat import ChatTemplate, Prompt
from diffpo.text.data.completions import Message
from diffpo.text.data.tokenizing import PROMPTS, Tokenizing
from diffpo.text.model.likelihoods import forward_as
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base
from diffpo.text.model.states import head_of
from diffpo.text.model.vision import SeeingTokenizing

Choose = Callable[[Float[Tensor, "n v"], Float[Tensor, " n"]], Int[Tensor, " n"]]


@dataclass(frozen=True)
class TextSampler(Sampler):
    """Answers of a language model, sampled as transformers does but for the draws.

    Conversations are asked by the chat template as in training, texts as they are. An answer ends with the end of a
    sequence, with what the model's own generation config names, or with what ends a turn of the template; one that has
    not ended after `max_tokens` is cut. Prompts that leave no room for it in the model's context lose their beginning.
    Both are counted (`count_cut`).

    Args:
        temperature: of the softmax; 0 takes the likeliest token, then all candidates of a prompt are one.
        top_k: only so many likeliest tokens; null is all.
        top_p: only the likeliest tokens that make up this probability; null is all.
        max_tokens: of an answer.
        as_chat: whether prompts that are texts are asked as a message of the user, by the chat template.
        batch_size: answers at a time; it changes speed and memory only.

    Raises:
        Refusal: if a number is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    max_tokens: int = 256
    as_chat: bool = False
    batch_size: int = 32

    def __post_init__(self):
        require_at_least(1, max_tokens=self.max_tokens, batch_size=self.batch_size, top_k=self.top_k)
        if not self.temperature >= 0:
            raise Refusal(f"temperature must be at least 0, got {self.temperature}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise Refusal(f"top_p lies in (0, 1], got {self.top_p}; null is all tokens.")

    @property
    def is_plain(self) -> bool:
        """Whether answers are of the model's own distribution."""
        return self.temperature == 1 and not self.top_k and self.top_p in (None, 1)

    @property
    def identity(self) -> dict[str, Any]:
        return {"sampler": type(self).__name__} | {key: x for key, x in asdict(self).items() if key != "batch_size"}

    def __call__(self, model: LoadedCausalLM, prompts: Sequence[Prompt], k: int, draws: Draws) -> list[list[Sampled]]:
        """k answers to each of b prompts, as k lists of b.

        Raises:
            Refusal: if prompts show pictures or cannot be written, or if answers leave no room for them.
        """
        read = [self.read(model, prompt) for prompt in prompts]
        chats = self.as_chat or not all(isinstance(prompt, str) for prompt in prompts)
        ends = find_ends(model.network, model.tokenizing, chats)
        found: dict[tuple[int, int], Sampled] = {}
        for rows, numbers in self.batches([len(ids) for ids, _ in read], k):
            ids = self.answer(model, [read[i][0] for i in rows], draws.of(rows), numbers, ends)
            places = [(i, number) for i in rows for number in numbers]
            for (i, number), answer in zip(places, ids, strict=True):
                found[i, number] = self.sampled(model.tokenizing, answer, ends, cut=read[i][1])
        return [[found[i, number] for i in range(len(prompts))] for number in range(k)]

    def read(self, model: LoadedCausalLM, prompt: Prompt) -> tuple[Sequence[int], bool]:
        """Tokens of a prompt as training reads them, and whether they were cut."""
        tokenizing = model.tokenizing
        if isinstance(tokenizing, SeeingTokenizing):
            raise Refusal("Answers are sampled to texts, and this base reads pictures; name a diffpo.text.CausalLM.")
        asked = [{"role": "user", "content": prompt}] if self.as_chat and isinstance(prompt, str) else prompt
        tokens = tokenizing(asked, "a")
        if (context := model.context) is None:
            return tokens.prompt, False
        if (room := context - self.max_tokens) < 1:
            raise Refusal(
                f"max_tokens {self.max_tokens} leave no room for a prompt in the {context} tokens that "
                f"{model.config.path} reads; lower it."
            )
        kept = tokens.cut(room, 1, tokenizing.tokenizer.bos_token_id)
        return kept.prompt, PROMPTS in kept.notes

    def batches(self, lengths: Sequence[int], k: int) -> Iterator[tuple[list[int], range]]:
        """Rows, those of one length together, and numbers of candidates: so many answers at a time."""
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        for first in range(0, k, self.batch_size):
            numbers = range(first, min(k, first + self.batch_size))
            together = self.batch_size // len(numbers)
            for begin in range(0, len(order), together):
                yield order[begin : begin + together], numbers

    def answer(
        self,
        model: LoadedCausalLM,
        prompts: Sequence[Sequence[int]],
        draws: Draws,
        numbers: Sequence[int],
        ends: Sequence[int],
    ) -> list[list[int]]:
        """Some candidates of some prompts as tokens, those of one prompt together; what ends one is its last."""
        each = torch.stack([draws.uniforms(f"tokens/{number}", self.max_tokens) for number in numbers], dim=1)
        return decode_answers(model.network, prompts, each, self.choose(), model.tokenizing.pad, ends)

    def choose(self) -> Choose:
        """What makes tokens of logits."""
        if not self.temperature:
            return lambda logits, _: logits.argmax(-1)
        warpers: list[Any] = [TemperatureLogitsWarper(float(self.temperature))] if self.temperature != 1 else []
        warpers += [TopKLogitsWarper(self.top_k)] if self.top_k else []
        warpers += [TopPLogitsWarper(self.top_p)] if self.top_p and self.top_p < 1 else []

        def choose(logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
            for warper in warpers:
                logits = warper(None, logits)
            return invert_distribution(logits, uniform)

        return choose

    def sampled(self, tokenizing: Tokenizing, answer: list[int], ends: Sequence[int], cut: bool) -> Sampled:
        ended = bool(answer) and answer[-1] in ends
        said = answer[: len(answer) - ended]
        text = tokenizing.tokenizer.decode(said, skip_special_tokens=True)
        return Sampled(text, {"tokens": len(said), "ended": ended, "prompt_cut": cut})


@dataclass(frozen=True, eq=False)
class OfModel(Sampler):
    """Answers of a model of its own, whichever one has the round: of the base, beside those of the policy.

    Args:
        path: hub id or folder of a causal language model.
        sampler: how it answers.
        revision: of a hub id.
    """

    path: str
    sampler: TextSampler
    revision: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "sampler": type(self).__name__,
            "path": self.path,
            "revision": self.revision,
            "of": self.sampler.identity,
        }

    def __call__(self, model: LoadedCausalLM, prompts: Sequence[Prompt], k: int, draws: Draws) -> list[list[Sampled]]:
        self.loaded.network.to(model.network.device)
        return self.sampler(self.loaded, prompts, k, draws)

    @cached_property
    def loaded(self) -> LoadedCausalLM:
        return load_base(CausalLM(self.path, revision=self.revision))


def invert_distribution(logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The token in whose share of [0, 1) a uniform number lies: a sample of the softmax.

    Summed in fp64, or a token whose probability is below 1e-7 might never be chosen.
    """
    whole = logits.float().softmax(-1).cumsum(-1, dtype=torch.float64)
    total = whole[:, -1:]
    wanted = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(whole, wanted, right=True)[:, 0]


@torch.no_grad()
def decode_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[Tensor, "b k t"],
    choose: Choose,
    pad: int,
    ends: Sequence[int],
) -> list[list[int]]:
    """Tokens after each prompt, k answers each, those of one prompt together.

    A prompt is read once for all its answers; only the logits of the next token are ever there; answers that have
    ended leave the batch.

    Args:
        model: a causal language model as transformers has it, however wrapped.
        prompts: b of them, as tokens.
        uniforms: one number per token; an answer that has not ended after t tokens is cut.
        choose: tokens, of logits and uniform numbers.
        pad: what fills up prompts on the left; it is masked.
        ends: tokens any of which ends an answer, as its last one.
    """
    network: Any = extract_model_from_parallel(model)
    device, longest, (_, k, most) = network.device, max(map(len, prompts)), uniforms.shape
    fed = torch.tensor([[*[pad] * (longest - len(prompt)), *prompt] for prompt in prompts], device=device)
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    attended = (torch.arange(longest, device=device) >= longest - lengths).long()
    positions, cache = (attended.cumsum(-1) - 1).clamp(min=0), DynamicCache(config=network.config)
    left, last = uniforms.flatten(0, 1).to(device), torch.tensor(sorted(ends), device=device)
    of = torch.arange(len(left), device=device)
    found = torch.full((len(left), most), -1, device=device)
    was_training, _ = network.training, network.eval()
    try:
        logits = next_logits(network, fed, attended, positions, cache).repeat_interleave(k, 0)
        if k > 1:
            cache.batch_repeat_interleave(k)
        attended, positions = attended.repeat_interleave(k, 0), lengths.repeat_interleave(k, 0)
        for t in range(most):
            fed = choose(logits, left[:, t])
            found[of, t] = fed
            going = ~torch.isin(fed, last)
            if t + 1 == most or not (count := int(going.sum())):
                break
            if count < len(fed):
                kept = going.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                fed, left, of, attended, positions = (x[kept] for x in (fed, left, of, attended, positions))
            attended = torch.cat([attended, torch.ones_like(fed)[:, None]], dim=1)
            logits = next_logits(network, fed[:, None], attended, positions, cache)
            positions = positions + 1
    finally:
        network.train(was_training)
    return [[token for token in row if token >= 0] for row in found.tolist()]


def next_logits(
    network: Any,
    fed: Int[Tensor, "n s"],
    attended: Int[Tensor, "n t"],
    positions: Int[Tensor, "n s"],
    cache: DynamicCache,
) -> Float[Tensor, "n v"]:
    """Logits of the token after the last in fp32; the others are not computed."""
    takes = signature(network.forward).parameters
    given = {"input_ids": fed, "attention_mask": attended, "use_cache": True}
    given["cache" if "cache" in takes else "past_key_values"] = cache  # releases name it differently
    if "position_ids" in takes:  # the others count what is attended
        given["position_ids"] = positions
    head: Any = head_of(network)
    plain = head.forward
    with forward_as(head, lambda states: plain(states[:, -1:])):
        said = network(**given)
    return said.logits[:, -1].float()


def find_ends(network: Any, tokenizing: Tokenizing, chats: bool) -> list[int]:
    """Tokens that end an answer: the end of a sequence, what the model's generation config names, and in chats what
    ends a turn of the template, as in training."""
    own = extract_model_from_parallel(network).generation_config.eos_token_id
    ends = {tokenizing.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own] if own is not None else [])}
    if chats:
        turns: list[Message] = [{"role": role, "content": "7"} for role in ("user", "assistant")]
        tail = ChatTemplate(tokenizing.tokenizer).turns(turns[:1], turns[1:]).completion.text.rpartition("7")[2]
        after = tokenizing.tokenizer(tail, add_special_tokens=False)["input_ids"]
        ends |= {*after[:1]} & {*tokenizing.tokenizer.added_tokens_decoder}
    return sorted(ends)


def count_cut(sampled: Sequence[Sequence[Sampled]]) -> dict[str, int]:
    """Of k lists of b candidates: answers, those of them that were cut at max_tokens, and prompts that were cut."""
    return {
        "answers": sum(map(len, sampled)),
        "answers_cut": sum(not one.about["ended"] for of in sampled for one in of),
        "prompts_cut": sum(one.about["prompt_cut"] for one in sampled[0]) if sampled else 0,
    }
