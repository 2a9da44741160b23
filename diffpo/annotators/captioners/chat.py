"""Chat models of transformers, with and without eyes, asked through their own chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from diffpo.annotators.captioners.instructions import DESCRIBE, InstructedPerturber, require_template
from diffpo.annotators.captioners.pretrained import Pretrained
from diffpo.annotators.captioners.roles import Captioner
from diffpo.core.refusal import Refusal
from diffpo.storage.hub import SAFE, name_failed_loads

LLAVA = "llava-hf/llava-v1.6-34b-hf"
QWEN = "Qwen/Qwen2.5-7B-Instruct"

Content = str | list[dict[str, Any]]
"""Of a user's message: a list of parts for models with eyes, while the templates of others expect a string."""


@dataclass(frozen=True, eq=False)
class ChatModel(Pretrained):
    """A model whose tokenizer or processor has a chat template."""

    def check(self) -> None:
        super().check()
        if self.processor.chat_template is None:
            raise Refusal(f"{self.path} has no chat template; name a model that was tuned to follow instructions.")

    def answers(self, questions: Sequence[Content], seeds: Sequence[int]) -> list[str]:
        """What the model says to each question; a question is the content of a message."""
        self.tokenizer.padding_side = "left"
        said: list[str] = []
        for some, of_some in self.in_batches(questions, seeds):
            inputs = self.templated([[{"role": "user", "content": content}] for content in some])
            tokens = self.written(inputs, of_some, pad_token_id=self.tokenizer.pad_token_id)
            said += self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said

    def templated(self, conversations: list[list[dict[str, Any]]]) -> Any:
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self.padding,
        )

    @property
    def padding(self) -> dict[str, Any]:
        """Processors take what is not for the template apart, tokenizers do not."""
        return {"padding": True}

    def spoken(self, text: str) -> str:
        """A user's text without the tokens that steer the model, e.g. <image>, which no prompt may smuggle in."""
        for token in self.tokenizer.get_added_vocab():
            text = text.replace(token, "")
        return text


@dataclass(frozen=True, eq=False)
class ChatCaptioner(ChatModel, Captioner):
    """Any image-text-to-text model of transformers: LLaVA-NeXT, Qwen2.5-VL, ...

    DCPO (arXiv:2502.06023) shows LLaVA-v1.6-34B picture and original prompt. Its instruction is not published; ours is
    the default. Temperature 0.2 is that of LLaVA's own command line.

    Args:
        instruction: what is asked; {prompt} is what the picture was made for.
    """

    path: str = LLAVA
    instruction: str = DESCRIBE

    kind = "an image-text-to-text model"
    classes = AutoModelForImageTextToText

    def __post_init__(self):
        require_template(self.instruction, "{prompt}", self)

    @classmethod
    def suits(cls, config: Any) -> bool:
        return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    @property
    def asks(self) -> dict[str, Any]:
        return {"instruction": self.instruction}

    @property
    def padding(self) -> dict[str, Any]:
        return {"processor_kwargs": {"padding": True}}

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        questions = [
            [
                {"type": "image", "image": picture},
                {"type": "text", "text": self.instruction.replace("{prompt}", self.spoken(prompt))},
            ]
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]
        return self.answers(questions, seeds)


@dataclass(frozen=True, eq=False)
class ChatSpeaker(ChatModel):
    """Any chat model of transformers that reads and writes text."""

    path: str = QWEN

    kind = "a language model"
    classes = AutoModelForCausalLM

    @classmethod
    def suits(cls, config: Any) -> bool:
        return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING

    @cached_property
    def processor(self) -> Any:
        with name_failed_loads(self.path, "a tokenizer"):
            return AutoTokenizer.from_pretrained(self.path, revision=self.revision, **SAFE)

    @property
    def tokenizer(self) -> Any:
        return self.processor


@dataclass(frozen=True, eq=False)
class ChatPerturber(InstructedPerturber, ChatSpeaker):
    """Any chat model of transformers that reads and writes text."""
