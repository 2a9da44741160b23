"""A person as the state of a vision-language model that has just written the person's profile."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, StoppingCriteria, StoppingCriteriaList

from diffpo.annotators.captioners.interleaved import Interleaved
from diffpo.annotators.embedders.embedder import Embedded, Shown, UserEmbedder, commit_of
from diffpo.storage.hub import SAFE, name_failed_loads

LLAVA_ONEVISION = "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf"
OPENING = "One person compared pictures, two at a time; both were made for the same caption."
PROFILE = (
    "For each comparison, describe both pictures, and explain how they differ in style, in visual quality and in "
    "aesthetics, and what may have decided. Then put together from all comparisons what this person likes and "
    "dislikes in pictures: a profile of one paragraph that would let somebody else choose as this person does."
)


class LastStep(StoppingCriteria):
    """Keeps, for each text of a batch, the hidden states of all layers at the last step of its own.

    That is the position from which a text's last token is predicted, in general the one that ends it; where a text is
    cut off, it is in the middle of a sentence. Texts that have ended wait for the others, padded: those steps are not
    theirs. Only one step is held in memory at a time.

    Attributes:
        states: of the embedded token and after each layer, in fp32.
        running: whether a text has not ended yet.

    Args:
        texts: of the batch.
        ends: tokens that end a text.
    """

    def __init__(self, texts: int, ends: Int[Tensor, " e"]):
        self.ends = ends
        self.states: Float[Tensor, "b tokens width"] = torch.zeros(texts, 1, 1, device=ends.device)
        self.running: Bool[Tensor, " b"] = torch.ones(texts, dtype=torch.bool, device=ends.device)

    def see(self, network: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook of the network."""
        now = torch.stack([layer[:, -1] for layer in output.hidden_states], dim=1)
        self.states = torch.where(self.running[:, None, None], now.float(), self.states)

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Any, **kwargs: Any) -> Bool[Tensor, " b"]:
        """Notes which texts end with the token that was just written; stops none by itself."""
        self.running = self.running & ~torch.isin(input_ids[:, -1], self.ends)
        return torch.zeros_like(self.running)


@dataclass(frozen=True, eq=False)
class ChatEmbedder(Interleaved, UserEmbedder):
    """Any image-text-to-text model of transformers that takes several pictures (PPD, arXiv:2501.06655).

    As in github.com/Asap7772/personalized-t2i: the model reads caption, preferred and other picture of all
    comparisons, interleaved, is asked to describe and compare them and to sum up the person, and answers greedily. The
    embedding is the hidden states of all layers, the embedded token included, at the last decoding step: (layers + 1,
    width), 29 x 3584 for the default. Its instruction has other words than ours. Another model, instruction, type or
    number of comparisons gives other embeddings.

    Args:
        instruction: what is asked after the comparisons.
    """

    path: str = LLAVA_ONEVISION
    batch_size: int = 4
    max_tokens: int = 1024
    temperature: float = field(default=0.0, init=False)
    top_p: float = field(default=1.0, init=False)
    instruction: str = PROFILE

    per_file = 32

    @property
    def model_id(self) -> str:
        return self.path

    @property
    def commit(self) -> str | None:
        return commit_of(self.path, self.revision)

    @property
    def identity(self) -> dict[str, Any]:
        about = {"embedder": type(self).__name__, "model_id": self.model_id, "revision": self.commit}
        return about | {"precision": self.dtype, "max_tokens": self.max_tokens, "instruction": self.instruction}

    @cached_property
    def shape(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        with name_failed_loads(self.path, self.kind):
            text = AutoConfig.from_pretrained(self.path, revision=self.revision, **SAFE).get_text_config()
        return text.num_hidden_layers + 1, text.hidden_size

    def __call__(self, chunks: Sequence[Sequence[Shown]]) -> Embedded:
        tokenizer, network = self.tokenizer, self.network
        states, profiles = [], []
        for some, seeds in self.in_batches(chunks, [0] * len(chunks)):
            inputs, last = self.inputs(some), LastStep(len(some), self.ends)
            watched = {"output_hidden_states": True, "stopping_criteria": StoppingCriteriaList([last])}
            with network.register_forward_hook(last.see):
                tokens = self.written(inputs, seeds, pad_token_id=tokenizer.pad_token_id, **watched)
            said = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            profiles += [text.strip() for text in said]
            states.append(last.states.to("cpu", copy=True))
        return Embedded(torch.cat(states), profiles)

    @property
    def ends(self) -> Int[Tensor, " e"]:
        """Tokens with which the network ends a text."""
        network: Any = self.network
        ends = network.generation_config.eos_token_id
        listed = [] if ends is None else [ends] if isinstance(ends, int) else ends
        return torch.tensor(listed, dtype=torch.long, device=self.place)

    def inputs(self, chunks: Sequence[Sequence[Shown]]) -> Any:
        return self.templated([[{"role": "user", "content": self.question(chunk)}] for chunk in chunks])

    def question(self, chunk: Sequence[Shown]) -> list[dict[str, Any]]:
        """All that the model is told of a person, words and pictures in their order."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"{OPENING}\n"}]
        for n, shown in enumerate(chunk, 1):
            before = f"Comparison {n}. Caption: {self.spoken(shown.caption)}\nThis person preferred:\n"
            parts += [{"type": "text", "text": before}, {"type": "image", "image": shown.liked}]
            parts += [{"type": "text", "text": "\nto this picture:\n"}, {"type": "image", "image": shown.disliked}]
            parts.append({"type": "text", "text": "\n"})
        return [*parts, {"type": "text", "text": self.instruction}]
