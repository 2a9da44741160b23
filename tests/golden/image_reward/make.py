"""Golden scores of ImageReward, by the package image-reward 1.5 on tiny random weights.

Made with Python 3.11, torch 2.0.1, torchvision 0.15.2, transformers 4.27.4, timm 0.6.13, fairscale 0.4.13,
clip-anytorch 2.6.0, numpy 1.26.4, pillow 10.4.0, huggingface-hub 0.19.4 on a CPU:

    python3.11 -m venv old
    old/bin/pip install torch==2.0.1 torchvision==0.15.2 "numpy<2" transformers==4.27.4 timm==0.6.13 pillow==10.4.0 \
        ftfy==6.3.1 regex huggingface-hub==0.19.4
    old/bin/pip install --no-deps image-reward==1.5 fairscale==0.4.13 clip-anytorch==2.6.0
    PYTHONPATH=tests old/bin/python tests/golden/image_reward/make.py

Sizes of the picture encoder, the text encoder (its med_config.json) and the input of the head are replaced by tiny
ones, and the package's module for training (ReFL) by an empty one; all else, `ImageReward.score` included, runs as
published. The tokenizer's vocabulary is `VOCABULARY`, in a folder called bert-base-uncased where the package runs.

`published` is a digest of the names and shapes of the original's weights at its own sizes, which `MED_CONFIG` and
`create_vit("large")` give: those of the published file.
"""

import hashlib
import json
import os
import string
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from golden.seeded import picture, weights
from PIL import Image

HERE = Path(__file__).parent
LETTERS = [*string.ascii_lowercase, *string.digits]
WORDS = ["a", "cat", "dog", "red", "on", "of", "the", "painting", "##ing", "##s", ",", ".", "!", "-", "(", ")", "'"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
VOCABULARY = list(dict.fromkeys(VOCABULARY))
MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30524,
    "encoder_width": 768,
    "add_cross_attention": True,
}
VISION = {"embed_dim": 32, "depth": 2, "num_heads": 2}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "vocab_size": len(VOCABULARY) + 2,
}
CASES = [
    ("a cat", 512, 512, "RGB", 1),
    ("A painting of the red cats, dogs on a car", 640, 400, "RGB", 2),
    ("Caf\u00e9 \u4e2d\u56fd dog's (RED) 24-7 \U0001f984!", 301, 500, "RGB", 3),
    ("", 97, 64, "RGB", 4),
    ("the [ENC] dog [DEC] of [MASK] cats", 333, 1000, "RGB", 5),
    (", ".join(["a painting of the red dog", "cats jumping on the moon"] * 6), 224, 251, "RGB", 6),
    ("dog", 251, 224, "RGB", 7),
    ("red cat", 400, 300, "L", 8),
    ("red cat", 300, 400, "RGBA", 9),
]


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict: scores of about 1, and the one buffer of the original beside its weights."""
    head = {name: shape for name, shape in shapes.items() if name.startswith("mlp.")}
    positions = "blip.text_encoder.embeddings.position_ids"
    rest = {name: shape for name, shape in shapes.items() if name not in head and name != positions}
    arrays = weights(rest, 0.2) | weights(head, 0.1)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return tensors | {positions: torch.arange(shapes[positions][1]).expand(shapes[positions])}


def digest(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def shapes_of(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def run() -> dict[str, Any]:
    sys.modules["ImageReward.ReFL"] = ModuleType("ImageReward.ReFL")
    import ImageReward
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    module = sys.modules["ImageReward.ImageReward"]
    folder = Path("bert-base-uncased")
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    Path("published.json").write_text(json.dumps(MED_CONFIG))
    Path("tiny.json").write_text(json.dumps(MED_CONFIG | TEXT))
    published = digest(shapes_of(module.ImageReward("published.json")))

    def tiny_vit(vit: str, image_size: int, *_: Any) -> tuple[VisionTransformer, int]:
        return VisionTransformer(img_size=image_size, patch_size=16, **VISION), VISION["embed_dim"]

    head = module.MLP(TEXT["hidden_size"])
    with (
        mock.patch.object(blip_pretrain, "create_vit", tiny_vit),
        mock.patch.object(module, "MLP", return_value=head),
    ):
        shapes = shapes_of(module.ImageReward("tiny.json"))
        torch.save(drawn(shapes), "ImageReward.pt")
        model = ImageReward.load("ImageReward.pt", device="cpu", med_config="tiny.json")
    scores = [model.score(case[0], shown(*case[1:])) for case in CASES]
    written = {name: " ".join(map(str, shape)) for name, shape in shapes.items()}
    return {"published": published, "shapes": written, "scores": scores}


def shown(width: int, height: int, mode: str, seed: int) -> Image.Image:
    """Opaque: of a transparent picture the original blends the edges of transparent parts."""
    return picture(width, height, seed).convert(mode)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        found = run()
    (HERE / "golden.json").write_text(json.dumps(found, indent=1) + "\n")
