"""Candidates by what they hold: equal ones are one, wherever they stand in a batch."""

import hashlib
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def name_content(content: Any) -> str:
    """What two contents share if they are equal: a text, messages, the path of a picture, or a picture itself."""
    if isinstance(content, str | Path):
        return str(content)
    try:
        return json.dumps(content, sort_keys=True)
    except TypeError:
        return hashlib.blake2b(pickle.dumps(content), digest_size=16).hexdigest()


def draw_for(seed: int, name: str, prompts: Sequence[Any], *sides: Sequence[Any]) -> Float[Tensor, " n"]:
    """A uniform number in [0, 1) for each question, in fp64: a function of seed, name and what is asked alone.

    The two candidates of a question may stand in either order.
    """
    digests = [
        hashlib.blake2b(
            json.dumps([seed, name, name_content(prompt), *sorted(map(name_content, asked))]).encode(), digest_size=8
        ).digest()
        for prompt, *asked in zip(prompts, *sides, strict=True)
    ]
    return torch.tensor([(int.from_bytes(digest, "little") >> 11) / 2**53 for digest in digests], dtype=torch.float64)
