"""ImageReward: BLIP, reading the prompt while it looks at the picture, trained on experts' rankings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from accelerate import init_empty_weights
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from diffpo.core.refusal import Refusal
from diffpo.scorers.checkpoints import read_saved
from diffpo.scorers.clip_parts import LinearStack, clip_pixels
from diffpo.scorers.learned import Learned, count_longer, stack_pictures
from diffpo.storage.hub import locate_file, name_failed_loads
from diffpo.storage.whole import fill_network

MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "encoder_hidden_size": VISION["hidden_size"],
}
# Parts of names in transformers' BLIP, and in the file.
NAMES = {
    "text.": "blip.text_encoder.",
    "head.": "mlp.layers.",
    "vision.post_layernorm.": "blip.visual_encoder.norm.",
    "vision.embeddings.class_embedding": "blip.visual_encoder.cls_token",
    "vision.embeddings.position_embedding": "blip.visual_encoder.pos_embed",
    "vision.embeddings.patch_embedding.": "blip.visual_encoder.patch_embed.proj.",
    "vision.encoder.layers.": "blip.visual_encoder.blocks.",
    ".self_attn.projection.": ".attn.proj.",
    ".self_attn.qkv.": ".attn.qkv.",
    ".layer_norm": ".norm",
}
# BLIP's projections for its contrastive loss, and the numbers from 0 to 511: nothing that a score depends on.
UNUSED = {
    *(f"blip.{part}_proj.{kind}" for part in ("vision", "text") for kind in ("weight", "bias")),
    "blip.text_encoder.embeddings.position_ids",
}


@dataclass(frozen=True, eq=False)
class ImageReward(Learned):
    """ImageReward (arXiv:2304.05977, github.com/zai-org/ImageReward): a reward r for prompt and picture together.

    The score is (r - 0.167) / 1.033, a scale its authors chose: unbounded, usually between -2 and 2.

    Args:
        path: hub id or folder with the file ImageReward.pt, or such a file.
        tokenizer: hub id or folder of BERT's uncased vocabulary.
    """

    path: str = "THUDM/ImageReward"
    tokenizer: str = "google-bert/bert-base-uncased"

    @property
    def name(self) -> str:
        return "image_reward"

    @property
    def version(self) -> str:
        formula = f"(r - {MEAN:.4f}) / {STD:.4f}; prompts cut to {TOKENS} tokens; bicubic center crop"
        return f"{formula}; {self.precision}".replace("torch.", "")

    def load(self) -> nn.Module:
        tensors = read_saved(self.path, "ImageReward.pt", self.revision, "ImageReward's weights")
        with init_empty_weights(include_buffers=False):
            network = BlipReward()
        used = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
        fill_network(network, used, self.path, "ImageReward", published_name)
        return network

    @cached_property
    def bert(self) -> BertTokenizer:
        with name_failed_loads(self.tokenizer, "BERT's vocabulary"):
            # Of a folder or hub id without vocabulary transformers makes an empty one, and says nothing.
            bert = BertTokenizer.from_pretrained(locate_file(self.tokenizer, "vocab.txt").parent)
        bert.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)
        if len(bert) != TEXT["vocab_size"]:
            raise Refusal(
                f"{self.tokenizer} has {len(bert) - 2} words, ImageReward was trained with {TEXT['vocab_size'] - 2}; "
                "set tokenizer to a copy of bert-base-uncased."
            )
        return bert

    def check(self, prompts: Sequence[str]) -> None:
        super().check(prompts)
        _ = self.bert

    def count_cut(self, prompts: Sequence[str]) -> int:
        return count_longer(self.bert, prompts, TOKENS)

    def score(self, prompts: list[str], pictures: list[Image.Image]) -> Float[Tensor, " n"]:
        square = partial(clip_pixels, size=VISION["image_size"])
        tokens = self.bert(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        rewards = self.network(stack_pictures(square, pictures).to(self.place, self.precision), tokens.to(self.place))
        return (rewards - MEAN) / STD


class BlipReward(nn.Module):
    """The reward r: the first token's state after cross attention to the picture, through linear layers."""

    def __init__(self):
        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**VISION))
        self.text = BlipTextModel(BlipTextConfig(**TEXT), add_pooling_layer=False)
        self.head = LinearStack(TEXT["hidden_size"])

    def forward(self, picture: Float[Tensor, "n 3 h w"], tokens: Mapping[str, Any]) -> Float[Tensor, " n"]:
        patches = self.vision(picture).last_hidden_state
        states = self.text(
            tokens["input_ids"], attention_mask=tokens["attention_mask"], encoder_hidden_states=patches
        ).last_hidden_state
        return self.head(states[:, 0])


def published_name(name: str) -> str:
    """What the published file calls a weight of `BlipReward`."""
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name
