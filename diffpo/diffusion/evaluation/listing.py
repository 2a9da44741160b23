"""`prompts.jsonl`: which prompt each picture of a folder was drawn for."""

import json
from pathlib import Path

from diffpo.core.refusal import Refusal
from diffpo.data.files.places import Outside, find_inside
from diffpo.storage.digests import read_named

LISTING = "prompts.jsonl"


def read_listing(listing: Path, outside: bool = False) -> list[tuple[str, Path]]:
    """Prompt and file of each picture that a listing names.

    Args:
        outside: whether it may name files that lie elsewhere than beside it.

    Raises:
        Refusal: if it is no such list, or not the one that was written, or names such a file.
    """
    found = []
    for number, text in enumerate(read_named(listing).splitlines()):
        try:
            line = json.loads(text)
            prompt, name = line["prompt"], str(line.get("file", f"{number:05d}.png"))
            if not outside:
                find_inside(listing.parent, name)
        except Outside as error:
            raise Refusal(
                f"Line {number + 1} of {listing} names {name}, which lies elsewhere; draw the pictures anew, or, of a "
                "model of an evaluation, set `outside` to true if its report may show that file."
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Refusal(f"Line {number + 1} of {listing} does not name a picture; draw them anew.") from error
        found.append((prompt, listing.parent / name))
    return found
