"""Who scores a user's own texts: a published reward model, or a chat model at an endpoint that says a number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from diffpo.annotators.captioners.instructions import require_template
from diffpo.annotators.captioners.roles import Interrupted, Speaker
from diffpo.annotators.endpoint import Served
from diffpo.core.refusal import Refusal
from diffpo.evaluation.scorer import TextScorer, require_as_many
from diffpo.processes.devices import device_of
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.storage.whole import load_whole
from diffpo.text.data.chat import ChatTemplate
from diffpo.text.data.completions import join_spoken
from diffpo.text.data.tokenizing import Tokenizing

RATE = (
    "Rate how well the answer serves the one who asks, from 1 (useless) to 10 (could not be better). Do not prefer an "
    "answer for its length.\n\nQuestion:\n{prompt}\n\nAnswer:\n{answer}\n\nEnd with a line that holds the number only."
)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")


@dataclass(frozen=True)
class PretrainedReward(TextScorer):
    """A reward model as transformers has them: a classifier of one class, whose logit is the score.

    Prompt and answer are written by its chat template; without one, as they are, one after the other. What is longer
    than it reads loses its beginning.

    Args:
        path: hub id or folder.
        revision: of a hub id.
        dtype: of the network, e.g. bfloat16; scores are fp32.
        device: on which it computes; null is the process's own.

    Raises:
        Refusal: when it is first used, if it cannot be loaded, or has several classes.
    """

    path: str
    revision: str | None = None
    dtype: str = "float32"
    device: str | None = None

    @property
    def name(self) -> str:
        return "reward"

    @property
    def model_id(self) -> str:
        return self.path + (f"@{self.revision}" if self.revision else "")

    @property
    def version(self) -> str:
        return f"logit, {self.dtype}"

    @cached_property
    def network(self) -> Any:
        what = "a reward model"
        load = partial(
            AutoModelForSequenceClassification.from_pretrained,
            self.path,
            revision=self.revision or "main",
            dtype=getattr(torch, self.dtype),
            **SAFE,
        )
        network = load_whole(load, self.path, what)
        if network.config.num_labels != 1:
            raise Refusal(
                f"{self.path} tells {network.config.num_labels} classes apart, a reward model has one; name another."
            )
        network.config.pad_token_id = self.tokenizing.pad
        return network.to(device_of(self.device)).eval()

    @cached_property
    def tokenizing(self) -> Tokenizing:
        with name_failed_loads(self.path, "a tokenizer"):
            return Tokenizing(AutoTokenizer.from_pretrained(self.path, revision=self.revision, **SAFE))

    @property
    def longest(self) -> int:
        """Tokens that it reads."""
        context = self.network.config.get_text_config().to_dict().get("max_position_embeddings")
        return context or self.tokenizing.tokenizer.model_max_length

    def check(self, prompts: Sequence[str]) -> None:
        _ = self.network

    def read(self, prompt: Any, answer: Any) -> list[int]:
        """Tokens of a prompt and its answer, however many."""
        if self.tokenizing.tokenizer.chat_template is not None and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        said = ChatTemplate(self.tokenizing.tokenizer)(prompt, answer)
        tokens = self.tokenizing.split(said)
        return [*tokens.prompt, *(token.id for token in tokens.completion)]

    def count_long(self, prompts: Sequence[Any], candidates: Sequence[Any]) -> int:
        return sum(len(self.read(*both)) > self.longest for both in zip(prompts, candidates, strict=True))

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Any], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        require_as_many(prompts, candidates)
        read = [self.read(*both)[-self.longest :] for both in zip(prompts, candidates, strict=True)]
        size, device = max(map(len, read)), self.network.device
        ids = torch.tensor([[*tokens, *[self.tokenizing.pad] * (size - len(tokens))] for tokens in read])
        lengths = torch.tensor([[len(tokens)] for tokens in read])
        attended = (torch.arange(size) < lengths).long()
        return self.network(input_ids=ids.to(device), attention_mask=attended.to(device)).logits[:, 0].float().cpu()


@dataclass(frozen=True, eq=False)
class EndpointRating(Served, TextScorer):
    """A chat model at an endpoint that rates answers in numbers; needs `openai` (the extra `captions`).

    The number in its last line counts, so that it may think before; without one, or with several, the answer is
    unrated (NaN).

    Args:
        instruction: what it is asked; {prompt} and {answer} stand for the two.
        low, high: ends of its scale; a number beyond is none.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    instruction: str = RATE
    low: float = 1.0
    high: float = 10.0

    def __post_init__(self):
        for part in ("{prompt}", "{answer}"):
            require_template(self.instruction, part, self)

    @property
    def name(self) -> str:
        return "rating"

    @property
    def model_id(self) -> str:
        return self.model

    @property
    def version(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def asks(self) -> dict[str, Any]:
        return {"instruction": self.instruction}

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | super(Speaker, self).identity

    def check(self, prompts: Sequence[str]) -> None:
        Served.check(self)

    def __call__(self, prompts: Sequence[Any], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        require_as_many(prompts, candidates)
        both = zip(map(join_spoken, prompts), map(join_spoken, candidates), strict=True)
        asked = [self.question(prompt, answer) for prompt, answer in both]
        try:
            said = self.answers(asked, [0] * len(asked))
        except Interrupted as error:
            raise Interrupted(str(error), {i: self.number(text) for i, text in error.said.items()}) from error
        return torch.tensor([self.number(text) for text in said], dtype=torch.float64)

    def question(self, prompt: str, answer: str) -> str:
        """Neither text can stand for the other."""
        parts = re.split(r"(\{prompt\}|\{answer\})", self.instruction)
        return "".join({"{prompt}": prompt, "{answer}": answer}.get(part, part) for part in parts)

    def number(self, said: str) -> float:
        lines = said.strip().splitlines()
        found = NUMBER.findall(lines[-1]) if lines else []
        number = float(found[0]) if len(found) == 1 else float("nan")
        return number if self.low <= number <= self.high else float("nan")
