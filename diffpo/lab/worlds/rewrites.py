"""Build the tiny language world: `tiny-lm` and `tiny-rewrites` (pairs, ranked lists, conversations, prompts).

About ten minutes on two cores, once:

python scripts/build_assets.py rewrites --output_dir assets
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffpo.lab.rewrites.build import build_tokenizer, train_language_model
from diffpo.lab.rewrites.lists import sample_lists
from diffpo.lab.rewrites.preferences import sample_pairs, write_prompts
from diffpo.lab.rewrites.requests import list_requests, split_requests
from diffpo.lab.rewrites.turns import sample_conversations


def main(
    output_dir: Path,
    steps: int = 1000,
    pairs: int = 3000,
    lists: int = 1500,
    conversations: int = 1500,
    base: Path | None = None,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Build the tiny language world.

    Args:
        output_dir: gets the two folders.
        steps: optimiser steps of the language model.
        pairs: prompts that are answered twice.
        lists: prompts that are answered four times.
        conversations: of two or three prompts, that are held twice.
        base: a finished language model, to skip its training.
        seed: of everything random.
        settings: the resolved config.
    """
    torch.set_flush_denormal(True)
    if base is None:
        tokenizer = build_tokenizer(seed)
        model = train_language_model(tokenizer, list_requests(), steps, seed=seed)
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for part in (model, tokenizer):
        part.save_pretrained(output_dir / "tiny-lm")
    split, folder = split_requests(seed), output_dir / "tiny-rewrites"
    write_prompts(split, folder / "prompts", seed)
    asking = model.eval(), tokenizer, split.training
    sample_pairs(*asking, pairs, seed).to_parquet(folder / "train.parquet")
    sample_lists(*asking, lists, seed=seed).to_parquet(folder / "lists.parquet")
    sample_conversations(*asking, conversations, seed=seed).to_parquet(folder / "conversations.parquet")
