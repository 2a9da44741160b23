"""Chat models of transformers that are shown several pictures, each where it stands between the words."""

from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from typing import Any

from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from diffpo.annotators.captioners.chat import ChatModel
from diffpo.core.refusal import Refusal


@dataclass(frozen=True, eq=False)
class Interleaved(ChatModel):
    """An image-text-to-text model. Templates of LLaVA write all pictures in front of all texts, so pictures are not
    left to the template: what it writes for one is put between the words."""

    kind = "an image-text-to-text model"
    classes = AutoModelForImageTextToText

    @classmethod
    def suits(cls, config: Any) -> bool:
        return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    def check(self) -> None:
        super().check()
        if not self.marker:
            raise Refusal(f"The chat template of {self.path} has no place for pictures; name another model.")

    def templated(self, conversations: list[list[dict[str, Any]]]) -> Any:
        """Of one message each, whose content is a list of parts, words and pictures."""
        tokenizer = self.tokenizer
        tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
        contents = [message["content"] for [message] in conversations]
        told = ["".join(part.get("text", self.marker) for part in content) for content in contents]
        texts = [self.rendered([{"type": "text", "text": text}]) for text in told]
        pictures = [[part["image"] for part in content if "image" in part] for content in contents]
        bos = tokenizer.bos_token
        begun = {"add_special_tokens": False} if bos and texts[0].startswith(bos) else {}
        return self.processor(text=texts, images=pictures, padding=True, return_tensors="pt", **begun)

    @cached_property
    def marker(self) -> str:
        """What the chat template writes for a picture; empty if it knows none."""
        text = {"type": "text", "text": "@"}
        plain, shown = self.rendered([text]), self.rendered([{"type": "image"}, text])
        begin = len(commonprefix([plain, shown]))
        rest = len(commonprefix([plain[begin:][::-1], shown[begin:][::-1]]))
        return shown[begin : len(shown) - rest]

    def rendered(self, content: list[dict[str, Any]]) -> str:
        message = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
