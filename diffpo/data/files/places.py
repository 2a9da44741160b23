"""Files that data name: only those in the folder of the data, so that a table from elsewhere reaches no others."""

from functools import cache
from pathlib import Path

from datasets import config
from huggingface_hub import constants

from diffpo.core.refusal import Refusal
from diffpo.data.typed import show_value


class Outside(Refusal):
    """A file that lies elsewhere."""


def find_inside(folder: Path, path: str) -> Path:
    """The file of that path in a folder, links followed.

    Args:
        path: relative to the folder, or absolute.

    Raises:
        Outside: if it leads out of the folder.
    """
    place = (folder / path).resolve()
    if not any(place.is_relative_to(root) for root in list_roots(folder)):
        raise Outside(
            f"{show_value(path)} lies outside of {folder}; let the source's `images` name a folder that holds all "
            "pictures"
        )
    return place


@cache
def list_roots(folder: Path) -> tuple[Path, ...]:
    """Folders that data of a folder may lie in. What came from the hub lies in its caches, which are full of links."""
    here = folder.resolve()
    caches = tuple(Path(place).resolve() for place in (constants.HF_HUB_CACHE, config.HF_DATASETS_CACHE))
    is_downloaded = not here.exists() or any(here.is_relative_to(cache) for cache in caches)
    return (here, *(caches if is_downloaded else ()))
