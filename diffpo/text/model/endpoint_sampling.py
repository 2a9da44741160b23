"""Answers of a model behind an OpenAI-compatible endpoint: vLLM, Ollama, hosted ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.endpoint import Reply, Served
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.rounds.roles import Sampled, Sampler
from diffpo.text.data.chat import Prompt
from diffpo.text.data.messages import plain_messages

SEEDS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class EndpointSampler(Served, Sampler):
    """Answers of a chat model at an endpoint; needs `openai` (the extra `captions`).

    Each request carries the seed of its (seed, round, row, candidate). Whether the server then says the same again is
    up to it: vLLM does so per request, many hosted ones do not promise it. A question that it refuses has an empty
    answer, which sources drop and count.

    Args:
        temperature: of the draws.
        top_p: only the likeliest tokens that make up this probability; null leaves it to the server.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float | None = None

    @property
    def asks(self) -> dict[str, Any]:
        return {"top_p": self.top_p}

    @property
    def sent(self) -> dict[str, Any]:
        return {} if self.top_p is None else {"top_p": self.top_p}

    def __call__(self, model: None, prompts: Sequence[Prompt], k: int, draws: Draws) -> list[list[Sampled]]:
        """k answers to each of b prompts, as k lists of b.

        Args:
            model: none; the endpoint has its own.

        Raises:
            Interrupted: if it stops answering; `said` holds what was answered before, that of candidate c of prompt i
                under c b + i.
            Refusal: if a conversation has parts that are no texts.
        """
        b = len(prompts)
        places = [i for i in range(b) for _ in range(k)]  # one prompt after the other: what stops leaves most whole
        try:
            said = self.answer_each([prompts[i] for i in places], [*range(k)] * b, draws.of(places))
        except Interrupted as error:
            raise Interrupted(str(error), {n % k * b + n // k: one for n, one in error.said.items()}) from error
        return [said[c::k] for c in range(k)]

    def answer_each(self, prompts: Sequence[Prompt], numbers: Sequence[int], draws: Draws) -> list[Sampled]:
        """One answer to each prompt: that which candidate number c of it is, whatever else is asked.

        Args:
            numbers: c of each.

        Raises:
            Interrupted: if the endpoint stops answering; `said` holds what was answered before, by its place.
            Refusal: if a conversation has parts that are no texts.
        """
        drawn = {number: draws.integers(f"seed/{number}", SEEDS).tolist() for number in {*numbers}}
        seeds = [drawn[number][i] for i, number in enumerate(numbers)]
        try:
            said = self.ask_all(self.tried_reply, [self.conversation(prompt) for prompt in prompts], seeds)
        except Interrupted as error:
            raise Interrupted(str(error), {i: read_reply(reply) for i, reply in error.said.items()}) from error
        return [read_reply(reply) for reply in said]

    def conversation(self, prompt: Prompt) -> list[Any]:
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}]
        messages = plain_messages(prompt)
        if any(isinstance(message["content"], list) for message in messages):
            raise Refusal("A prompt has parts that are no texts, which are not sent to an endpoint; drop such rows.")
        return messages


def read_reply(reply: Reply) -> Sampled:
    return Sampled(reply.text, {"tokens": reply.tokens, "ended": reply.ended, "prompt_cut": False})
