"""Pictures in the layout that GenEval's own tools read (arXiv:2310.11513, github.com/djghosh13/geneval)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.data.files.pictures import read_image
from diffpo.storage.files import name_failed_writes


def write_geneval(files: Sequence[Path], records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """`00000/metadata.jsonl` (the prompt's record, as GenEval's evaluation_metadata.jsonl has it) and its samples.

    Args:
        files: pictures, prompt by prompt.

    Raises:
        Refusal: if a picture cannot be read.
        Refusal: if the disk is full.
    """
    per_prompt = len(files) // len(records)
    for number, record in enumerate(records):
        place = folder / f"{number:05d}"
        with name_failed_writes(str(place), "then run the same command again"):
            (place / "samples").mkdir(parents=True, exist_ok=True)
            (place / "metadata.jsonl").write_text(json.dumps(dict(record)) + "\n")
            for sample, file in enumerate(files[number * per_prompt : (number + 1) * per_prompt]):
                read_image(str(file)).save(place / "samples" / f"{sample:04d}.png")
