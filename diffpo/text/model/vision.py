"""Vision-language models as bases, and batches of answers about pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForImageTextToText, AutoProcessor

from diffpo.core.refusal import Refusal
from diffpo.storage.digests import require_exported
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.text.data.chat import ChatTemplate, Prompt
from diffpo.text.data.completions import Candidate, Message
from diffpo.text.data.messages import kind_of
from diffpo.text.data.pictures import PictureAnswer
from diffpo.text.data.tokenizing import Tokenizing, Tokens
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, names_in

PER_TOKEN = ("mm_token_type_ids", "token_type_ids")  # of what processors return, one number per token of the prompt


@dataclass(frozen=True)
class SeenTokens(Tokens):
    """One candidate whose prompt shows a picture.

    Attributes:
        inputs: what the network is given beside tokens.
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    def cut(self, prompt: int, completion: int, first: int | None = None) -> "SeenTokens":
        """Only the completion is cut: without some of its tokens a picture cannot be read.

        Raises:
            Refusal: if question and picture leave no room.
        """
        most = completion + min(prompt, len(self.prompt))
        if len(self.prompt) >= most:
            raise Refusal(
                f"A question with its picture takes {len(self.prompt)} tokens of {most}; raise data.max_length, or "
                "make the pictures smaller."
            )
        cut = super().cut(len(self.prompt), most - len(self.prompt), first)
        assert isinstance(cut, SeenTokens)
        return cut


@dataclass(frozen=True, eq=False)
class SeeingTokenizing(Tokenizing):
    """A processor: a tokenizer with a chat template that shows pictures."""

    processor: Any

    def __call__(self, prompt: Prompt, candidate: Candidate, tools: Sequence[Mapping[str, Any]] = ()) -> Tokens:
        """Tokens of the question, with room for the picture as the processor makes it, and of the answer."""
        if not isinstance(candidate, PictureAnswer):
            raise Refusal("It shows no picture; add diffpo.text.CorruptedPicture to data.rows.")
        said = ChatTemplate(Parts(self.processor), tools)(self.asked(prompt), candidate)
        completion = self.split(replace(said, prompt=""))
        read = self.processor(
            text=said.prompt, images=[candidate.shown()], add_special_tokens=False, return_tensors="pt"
        )
        ids: Int[Tensor, "1 p"] = read["input_ids"]
        inputs = {name: x for name, x in read.items() if name not in ("input_ids", "attention_mask")}
        return SeenTokens(tuple(ids[0].tolist()), completion.completion, completion.notes, inputs)

    def inputs(self, tokens: Sequence[Tokens], size: int) -> dict[str, Tensor]:
        """What the network is given beside tokens, of sequences that are padded to `size`."""
        each: Any = [seen.inputs for seen in tokens if isinstance(seen, SeenTokens)]
        found = {name: cat_padded([inputs[name] for inputs in each]) for name in each[0]}
        return {name: pad(x, (0, size - x.shape[-1])) if name in PER_TOKEN else x for name, x in found.items()}

    def asked(self, prompt: Prompt) -> Sequence[Message]:
        """The question as messages; the first of the user's shows the picture."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        first = next((i for i, message in enumerate(messages) if message["role"] == "user"), None)
        if first is None:
            raise Refusal("Its prompt has no message of the user to show the picture in; change the data.")
        spoken = [{**message, "content": self.spoken(message)} for message in messages]
        spoken[first]["content"] = [{"type": "image"}, {"type": "text", "text": spoken[first]["content"]}]
        return spoken

    def spoken(self, message: Message) -> str:
        """Without tokens that steer the model: many data sets write where the picture is, which the template does."""
        content = message["content"] or ""
        parts: Any = [{"text": content}] if isinstance(content, str) else content
        kinds = [kind_of(part) for part in parts]
        if other := [kind for kind in kinds if kind not in ("text", "image")]:
            raise Refusal(f"A message of {message['role']} has a part of type {other[0]!r}; drop such rows.")
        if kinds.count("image") > 1:
            raise Refusal(f"A message shows {kinds.count('image')} pictures, and a row has one; drop such rows.")
        text = "".join(part["text"] for part, kind in zip(parts, kinds, strict=True) if kind == "text")
        for token in self.tokenizer.get_added_vocab():
            text = text.replace(token, "")
        return text.strip()


@dataclass(frozen=True, eq=False)
class Parts:
    """A processor whose template is given the content of every message as a list of parts, as many expect."""

    processor: Any

    @property
    def chat_template(self) -> str | None:
        return self.processor.chat_template

    @property
    def eos_token(self) -> str:
        return self.processor.tokenizer.eos_token

    def apply_chat_template(self, messages: Sequence[Message], **options: Any) -> str:
        def parts(content: Any) -> Any:
            return [{"type": "text", "text": content}] if isinstance(content, str) else content

        whole = [{**message, "content": parts(message["content"])} for message in messages]
        return self.processor.apply_chat_template(whole, **options)


def cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other, filled up with zeros at the end of all other axes."""
    sizes = torch.tensor([x.shape[1:] for x in tensors]).amax(0).tolist()
    filled = [
        pad(x, [n for size, most in zip(x.shape[:0:-1], sizes[::-1], strict=True) for n in (0, most - size)])
        for x in tensors
    ]
    return torch.cat(filled)


@dataclass(frozen=True)
class VisionLM(CausalLM):
    """Which vision-language model to tune, and how: LLaVA, LLaVA-NeXT, Qwen2.5-VL, ...

    A question is never cut, because without some of its tokens a picture cannot be read; data.max_length has to hold
    the question, the picture and one token of the answer.
    """

    network_class: ClassVar[Any] = AutoModelForImageTextToText
    reader_class: ClassVar[Any] = AutoProcessor
    reads_by: ClassVar[str] = "processor"
    kind: ClassVar[str] = "a vision-language model"
    task: ClassVar[str] = "image-text-to-text"

    def tokenizing(self) -> SeeingTokenizing:
        require_exported(Path(self.path))
        with name_failed_loads(self.path, "a processor"):
            processor: Any = AutoProcessor.from_pretrained(self.path, revision=self.revision, **SAFE)
        if self.chat_template is not None:
            processor.chat_template = self.chat_template
        return SeeingTokenizing(processor.tokenizer, processor, known=self.vocabulary)

    def load(
        self, device: torch.device | str = "cpu", storage: torch.dtype = torch.float32, seed: int = 0
    ) -> "LoadedVisionLM":
        loaded = super().load(device, storage, seed)
        return LoadedVisionLM(self, loaded.network, loaded.tokenizing, storage, loaded.exported)


class LoadedVisionLM(LoadedCausalLM):
    """The parts of a loaded base."""

    def save_readers(self, folder: Path) -> list[str]:
        assert isinstance(self.tokenizing, SeeingTokenizing)
        names = super().save_readers(folder)
        return names + names_in(folder, self.tokenizing.processor.save_pretrained(folder))
