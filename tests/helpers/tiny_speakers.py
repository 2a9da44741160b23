"""Captioners and perturbers of a few thousand random weights, saved as transformers saves them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from diffpo.annotators.captioners.roles import Captioner, Perturber

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    *["USER", ":", "ASSISTANT", "a", "red", "blue", "circle", "on", "the", "left", "right"],
]
TEMPLATE = (
    "{% for message in messages %}USER : {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokenizer(**options) -> PreTrainedTokenizerFast:
    """One token per word."""
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **special, **options)
    made.add_tokens(["<image>"], special_tokens=True)
    return made


def seeded(build, config) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(config)


def llava(folder: Path) -> Path:
    """LLaVA-NeXT: CLIP's picture tower, a projection and a Llama."""
    vision = CLIPVisionConfig(**TEXT, image_size=16, patch_size=8, projection_dim=16)
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=LlamaConfig(**TEXT, **TOKENS, vocab_size=len(WORDS), max_position_embeddings=256),
        image_token_index=WORDS.index("<image>"),
        image_grid_pinpoints=[[16, 16]],
        vision_feature_layer=-1,
        **TOKENS,
    )
    size = {"shortest_edge": 16}
    pictures = LlavaNextImageProcessor(
        size=size, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=[[16, 16]]
    )
    LlavaNextProcessor(
        pictures,
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    seeded(LlavaNextForConditionalGeneration, config).save_pretrained(folder)
    return folder


def llama(folder: Path, template: str | None = TEMPLATE) -> Path:
    config = LlamaConfig(**TEXT, **TOKENS, vocab_size=len(WORDS), max_position_embeddings=256)
    seeded(LlamaForCausalLM, config).save_pretrained(folder)
    tokenizer(chat_template=template).save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    config = T5Config(**sizes, vocab_size=len(WORDS), pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    seeded(T5ForConditionalGeneration, config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    tokens = TOKENS | {"sep_token_id": 2}
    text = TEXT | tokens | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "projection_dim": 16}
    config = BlipConfig(text_config=text, vision_config=TEXT | {"image_size": 16, "patch_size": 8})
    seeded(BlipForConditionalGeneration, config).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(pictures, tokenizer()).save_pretrained(folder)
    return folder


@dataclass(frozen=True, eq=False)
class Colors(Captioner):
    """Says the color of the upper left pixel; what it was asked is kept.

    Attributes:
        silent: how many tries at a picture of green it answers with nothing.
    """

    silent: int = 0
    version: str = "1"
    asked: list = field(default_factory=list)

    @property
    def identity(self):
        return {"kind": "colors", "version": self.version}

    def __call__(self, pictures, prompts, seeds):
        colors = [picture.getpixel((0, 0)) for picture in pictures]
        said = [
            "" if color[1] and sum(a[0] == color for a in self.asked) < self.silent else f"{color[0]} in\nred"
            for color in colors
        ]
        self.asked.extend(zip(colors, prompts, seeds, strict=True))
        return said


@dataclass(frozen=True, eq=False)
class Shouted(Perturber):
    """Says it louder, with the strength and the seed."""

    asked: list = field(default_factory=list)

    @property
    def identity(self):
        return {"kind": "shouted"}

    def __call__(self, texts, strength, seeds):
        self.asked.extend(zip(texts, seeds, strict=True))
        return [f"{text.upper()}{'!' * (1 + strength.value)}" for text in texts]
