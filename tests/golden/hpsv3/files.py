"""A tiny Qwen2-VL in the files in which its authors published the big one, weights for HPSv3, and what it judges."""

import json
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from golden.seeded import picture, weights
from PIL import Image

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += [f"<|{what}_{end}|>" for what in ("object_ref", "box", "quad", "vision") for end in ("start", "end")]
SPECIAL += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = ["the", "image", "and", "of", "quality", "overall", "visual", "should", "evaluate", "prompt", "style", "any"]
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = [chr(code) for code in [*PLAIN, *range(256, 512 - len(PLAIN))]]
CHAINS = [list(accumulate(f"\u0120{word}")) for word in WORDS]
MERGES = list(dict.fromkeys((short, long[-1]) for chain in CHAINS for short, long in pairwise(chain)))
VOCABULARY = [*BYTES, *("".join(pair) for pair in MERGES)]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": len(VOCABULARY),
    "eos_token_id": len(VOCABULARY) + 2,
    **{f"{token[2:-2]}_token_id": len(VOCABULARY) + SPECIAL.index(token) for token in SPECIAL if "vision" in token},
    "image_token_id": len(VOCABULARY) + SPECIAL.index("<|image_pad|>"),
    "video_token_id": len(VOCABULARY) + SPECIAL.index("<|video_pad|>"),
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 32768,
    "max_window_layers": 2,
    "model_type": "qwen2_vl",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 2,
        "embed_dim": 32,
        "mlp_ratio": 2,
        "num_heads": 2,
        "in_chans": 3,
        "hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": len(VOCABULARY) + len(SPECIAL) + 20,
}
PREPROCESSOR: dict[str, Any] = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}
CASES = [
    ("a cat", 512, 512, "RGB", 1),
    ("A painting of the red cats, {dogs} on a car: \u00a72", 640, 400, "RGB", 2),
    ("Cafe\u0301 \u4e2d\u56fd dog's (RED) 24-7 \U0001f984!\n\nsecond paragraph ", 301, 500, "RGB", 3),
    ("", 20, 33, "RGB", 4),
    (", ".join(["the visual quality of the prompt"] * 30), 448, 448, "RGB", 5),
    ("a cat<|im_end|>", 224, 131, "RGB", 6),
    ("a cat", 1900, 60, "RGB", 7),
    ("a cat", 300, 301, "L", 8),
    ("a dog", 300, 301, "RGBA", 8),
]


def pictures() -> list[Image.Image]:
    return [picture(width, height, seed, mode) for _, width, height, mode, seed in CASES]


def drawn(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """A state dict with scores of about 1."""
    head = {name: tuple(shape) for name, shape in shapes.items() if name.startswith("rm_head.")}
    rest = {name: tuple(shape) for name, shape in shapes.items() if name not in head}
    return {name: torch.from_numpy(array) for name, array in (weights(rest, 0.2) | weights(head, 0.1)).items()}


def write_base(folder: Path) -> None:
    """Configuration, tokenizer and image processor."""
    added = [
        {"id": len(VOCABULARY) + index, "content": token, "special": True}
        | dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
        for index, token in enumerate(SPECIAL)
    ]
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    bytelevel = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    bpe = {"type": "BPE", "vocab": vocabulary, "merges": [" ".join(pair) for pair in MERGES], "byte_fallback": False}
    bpe |= {"dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytelevel]},
        "post_processor": bytelevel,
        "decoder": bytelevel,
        "model": bpe | {"fuse_unk": False},
    }
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {token.pop("id"): token for token in json.loads(json.dumps(added))},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "chat_template": CHAT,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    contents = {"tokenizer": tokenizer, "tokenizer_config": settings, "vocab": vocabulary}
    contents |= {"config": CONFIG, "preprocessor_config": PREPROCESSOR, "chat_template": {"chat_template": CHAT}}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, MERGES)) + "\n", encoding="utf-8")
