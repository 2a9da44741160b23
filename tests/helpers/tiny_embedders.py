"""Embedders of users that take no time: LLaVA-OneVision of random weights, CLIP's, and one that only counts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from shards import png
from tiny_speakers import TEXT, TOKENS, WORDS, seeded, tokenizer
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from diffpo.annotators.embedders.embedder import Embedded, UserEmbedder
from diffpo.annotators.embedders.pooled import PooledDifference
from diffpo.scorers.clip_score import CLIPScore

LAYERS = 2
TEMPLATE = (
    "{% for message in messages %}USER {% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image> ' }}{% endfor %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)
"""As LLaVA's own, it writes all pictures in front of all texts."""


def onevision(folder: Path, template: str = TEMPLATE, scale: float = 1.0) -> str:
    """LLaVA-OneVision: SigLIP's picture tower, a projection and a Qwen2 of two layers.

    Args:
        scale: of all weights; large ones say many different things.
    """
    pytest.importorskip("torchvision", reason="its processor of videos needs torchvision")
    vision = SiglipVisionConfig(**TEXT | {"image_size": 16, "patch_size": 8}, vision_use_head=False)
    text = Qwen2Config(
        **TEXT | TOKENS | {"num_hidden_layers": LAYERS, "num_key_value_heads": 2},
        vocab_size=len(WORDS),
        max_position_embeddings=512,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=WORDS.index("<image>"),
        video_token_index=WORDS.index("right"),
        image_grid_pinpoints=[[16, 16]],
        vision_aspect_ratio="anyres_max_9",
        **TOKENS,
    )
    size = {"height": 16, "width": 16}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[16, 16]]),
        tokenizer(),
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template,
        video_token="right",
    ).save_pretrained(folder)
    network = seeded(LlavaOnevisionForConditionalGeneration, config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
    network.save_pretrained(folder)
    return str(folder)


def pooled() -> PooledDifference:
    return PooledDifference(CLIPScore("assets/tiny-clip"))


@dataclass(frozen=True, eq=False)
class Means(UserEmbedder):
    """Two tokens of width 3, all of them the mean brightness of liked minus disliked pictures, and the captions."""

    model_id = "means"
    commit = None
    shape = (2, 3)
    per_file = 2

    @property
    def identity(self):
        return {"embedder": "Means", "model_id": "means", "revision": None}

    def check(self):
        pass

    def __call__(self, chunks):
        found = [np.mean([np.mean(one.liked) - np.mean(one.disliked) for one in chunk]) for chunk in chunks]
        tokens = torch.tensor(found, dtype=torch.float32)[:, None, None].expand(-1, 2, 3)
        return Embedded(tokens, ["; ".join(one.caption for one in chunk) for chunk in chunks])


def compared(file: Path, pairs_of: dict[str | None, int], torn: int | None = None, ties: int = 0) -> str:
    """A table of pairs of so many users; chosen pictures are of noise, rejected ones black, and pair n is called n.

    Args:
        torn: number of a pair whose chosen picture cannot be read.
        ties: how many of the last pairs have no winner.
    """
    users = [user for user, pairs in pairs_of.items() for _ in range(pairs)]
    n = len(users)
    chosen = [b"torn" if i == torn else png(seed=i, size=(8, 8)) for i in range(n)]
    columns = {"chosen": chosen, "rejected": [png("black", size=(8, 8))] * n, "prompt": list(map(str, range(n)))}
    prob = [1.0] * (n - ties) + [0.5] * ties
    Dataset.from_dict(columns | {"prob": prob, "user_id": users}).to_parquet(file)
    return str(file)
