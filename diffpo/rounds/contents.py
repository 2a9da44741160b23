"""Candidates by what they hold: equal ones are one, wherever they stand in a batch. Pictures are kept as files."""

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.storage.digests import digest_of
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import move_into_place

PICTURES = "pictures"
REMEDY = "copy it again, or remove the folder and make it anew"


def name_content(content: Any) -> str:
    """What two contents share if they are equal: a text, messages, the path of a picture, or a picture itself."""
    if isinstance(content, str | Path):
        return str(content)
    if is_kept(content):
        return content["sha256"]
    try:
        return json.dumps(content, sort_keys=True)
    except TypeError:
        return hashlib.blake2b(pickle.dumps(content), digest_size=16).hexdigest()


def is_kept(content: Any) -> bool:
    """Whether a content is what `keep_content` has made of a picture."""
    return isinstance(content, Mapping) and {"path", "sha256"} <= content.keys()


def keep_content(folder: Path, name: str, content: Any) -> Any:
    """What a table holds of a content: a text as it is, of a picture where its file lies, and its digest."""
    if not isinstance(content, Image.Image):
        return content
    file = folder / PICTURES / f"{name}.png"
    with name_failed_writes(f"A picture of {folder}", "make room and run the same command again"):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        content.save(unfinished, "PNG")
        move_into_place(unfinished, file)
    return {"path": f"{PICTURES}/{file.name}", "sha256": digest_of(file)["sha256"]}


def open_content(folder: Path, content: Any) -> Any:
    """What a judge sees: a text as it is, a picture that was kept, opened.

    Raises:
        Refusal: if its file is not what was kept.
    """
    if not is_kept(content):
        return content
    file = folder / content["path"]
    if not file.is_file() or digest_of(file)["sha256"] != content["sha256"]:
        raise Refusal(f"{file} is not the picture that was drawn; {REMEDY}.")
    return read_image(str(file))


def relocate_content(content: Any, folder: str) -> Any:
    """The same, for a table that lies where `folder` does."""
    return {**content, "path": f"{folder}/{content['path']}"} if is_kept(content) else content


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
