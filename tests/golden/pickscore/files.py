"""A tiny CLIPModel with its tokenizer, in the files in which transformers 4 published such models."""

import json
from pathlib import Path
from typing import Any

import torch
from golden.seeded import weights

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = """t h
th e</w>
a n
an d</w>
c a
ca t</w>
h o
ho r
hor s
hors e</w>
i n
in g</w>
r i
ri d
rid ing</w>
o f</w>
t e
te d</w>
p i
pi c"""
CONFIG: dict[str, Any] = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 16,
    "logit_scale_init_value": 2.6592,
    "text_config": {
        "model_type": "clip_text_model",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "hidden_act": "gelu",
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": 77,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 16,
        "vocab_size": 534,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": 224,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": 32,
        "projection_dim": 16,
    },
    "torch_dtype": "float32",
    "transformers_version": "4.27.4",
}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
STEPS = {"do_center_crop": True, "do_normalize": True, "do_resize": True, "image_mean": MEAN, "image_std": STD}
VIT_H_14: dict[str, Any] = STEPS | {
    "crop_size": {"height": 224, "width": 224},
    "do_convert_rgb": True,
    "do_rescale": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_processor_type": "CLIPImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
VIT_L_14: dict[str, Any] = STEPS | {
    "crop_size": 224,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "resample": 3,
    "size": 224,
}


def write_model(folder: Path, shapes: dict[str, list[int]], act: str = "gelu", scale: float = 0.2) -> None:
    """config.json and pytorch_model.bin, whose state dict also has the position ids that old versions saved."""
    config = json.loads(json.dumps(CONFIG).replace('"gelu"', f'"{act}"'))
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: torch.as_tensor(value) for name, value in weights(shapes, scale).items()}
    positions = {name: torch.arange(shape[-1])[None] for name, shape in shapes.items() if "position_ids" in name}
    torch.save(state | positions, folder / "pytorch_model.bin")


def write_processor(folder: Path, image_processor: dict[str, Any]) -> None:
    """The image processor's configuration, and a byte-level tokenizer with few merges."""
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in [*plain, *range(256, 512 - len(plain))]]
    merged = [line.replace(" ", "") for line in MERGES.splitlines()]
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *merged, START, END]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{MERGES}\n")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = special | {"do_lower_case": True, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
