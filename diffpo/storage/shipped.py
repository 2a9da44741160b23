"""What travels with the library: recipes, and the tiny world of the quick start; of a clone, what it has.

In a wheel they lie beside the code, put there when it is built; the repository has one copy of each.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from diffpo.core.refusal import Refusal

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "shipped"  # of a wheel
PARTS = ("configs/", "assets/tiny-")  # what is read; assets/ also gets records and worlds that are built
WRITTEN = {"output_dir", "output", "record", "readme"}  # options that name what is written: never ours


def shipped_root() -> Path:
    return SHIPPED if SHIPPED.is_dir() else PACKAGE.parent


def list_recipes() -> list[Path]:
    """The configs that came along, without the grids of evidence."""
    found = (shipped_root() / "configs").rglob("*.yaml")
    return sorted(path for path in found if path.parent.name not in ("evidence", "accelerate"))


def name_recipe(path: Path) -> str:
    """How a recipe is called: `sdxl_lora`'s whole name is `diffusion/diffusion_dpo_sdxl_lora`."""
    return path.relative_to(shipped_root() / "configs").with_suffix("").as_posix()


def find_recipe(said: str) -> Path:
    """A config: the user's own file, or else a recipe that came along.

    Args:
        said: a path, the name of a recipe as `name_recipe` has it, or an end of it that only one of them has.

    Raises:
        Refusal: if there is neither, or if several recipes end so.
    """
    if Path(said).is_file():
        return Path(said)
    beside = shipped_root() / said
    if said.startswith("configs/") and beside.is_file():
        return beside
    names = {name_recipe(path): path for path in list_recipes()}
    if said in names:
        return names[said]
    ends = [name for name in names if name.rpartition("/")[2] == said]
    ends = ends or [name for name in names if name.endswith((f"_{said}", f"/{said}"))]
    if len(ends) == 1:
        return names[ends[0]]
    if ends:
        raise Refusal(f"Several recipes are called {said!r}: {', '.join(ends)}; name one of them in full.")
    close = get_close_matches(said, [*names, *(name.rpartition("/")[2] for name in names)], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise Refusal(f"There is no file and no recipe {said!r}; {hint}`diffpo recipes` lists those that came along.")


def find_shipped(value: str) -> Path | None:
    """What came along under a path (`assets/...`) that the user's folder lacks; None if nothing did."""
    if not value.startswith(PARTS) or Path(value).exists():
        return None
    path = shipped_root() / value
    return path if path.exists() else None


def replace_shipped(tree: Any, taken: dict[str, str]) -> Any:
    """A config in which paths that only the package has are those of the package.

    Args:
        taken: gets what was replaced, to be told.
    """
    if isinstance(tree, dict):
        return {key: value if key in WRITTEN else replace_shipped(value, taken) for key, value in tree.items()}
    if isinstance(tree, list):
        return [replace_shipped(value, taken) for value in tree]
    if isinstance(tree, str) and (found := find_shipped(tree)):
        taken[tree] = str(found)
        return str(found)
    return tree
