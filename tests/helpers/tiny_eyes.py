"""A vision-language model of a few thousand random weights, pictures, and batches of answers about them."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from tiny_speakers import TEXT, TOKENS
from tiny_text import VOCABULARY, token_batch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from diffpo.data.files.records import Held
from diffpo.text.data.batches import TokenBatch

IMAGE, SIDE, PATCHES = VOCABULARY - 1, 16, 4


def seeing_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """LLaVA: a picture tower that makes four tokens, a projection and a Llama."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TEXT, image_size=SIDE, patch_size=SIDE // 2, projection_dim=16),
        text_config=LlamaConfig(**TEXT, **TOKENS, vocab_size=VOCABULARY, max_position_embeddings=64),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        **TOKENS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).train()


def answers_about_pictures(b: int = 2, s: int = 11, prompt: int = 6, corrupted: bool = True) -> TokenBatch:
    """Three candidates: two answers about one picture, and the first again, about a corrupted picture or the same."""
    batch = token_batch(3, b, s, prompt)
    ids = batch.ids.clone()
    ids[ids == IMAGE] = 3
    ids[..., 1 : 1 + PATCHES] = IMAGE
    ids[2] = ids[0]
    attended, scored, part = batch.attended.clone(), batch.scored.clone(), batch.part.clone()
    for per_token in (attended, scored, part):
        per_token[2] = per_token[0]
    picture, other = torch.randn(2, b, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    pictures = torch.stack([picture, picture, other if corrupted else picture])
    inputs = {"pixel_values": pictures.flatten(0, 1)}
    return replace(batch, ids=ids, attended=attended, scored=scored, part=part, inputs=inputs)


def held(picture: Image.Image) -> Held:
    """A picture as a table of `datasets` holds it."""
    file = BytesIO()
    picture.save(file, "png")
    return Held({"bytes": file.getvalue(), "path": None}, Path())
