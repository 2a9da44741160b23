"""By which names the library's classes are known outside: those that the faces of its rooms hand on.

The stubs of the faces are read, not the modules behind them, so that to look a name up imports nothing.
"""

import ast
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
TRACKS = ("diffpo.diffusion", "diffpo.text")
BARE = re.compile(r"(?<![\w./-])[A-Z]\w*(?![\w./-])")


@cache
def read_faces() -> dict[str, dict[str, str]]:
    """For each room with a face the names that it hands on, and the modules that define them."""
    faces = {}
    for stub in sorted(PACKAGE.rglob("__init__.pyi")):
        room = ".".join([PACKAGE.name, *stub.parent.relative_to(PACKAGE).parts])
        nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
        faces[room] = {alias.name: f"{room}.{node.module}" for node in nodes for alias in node.names}
    return faces


def find_public_path(thing: type) -> str:
    """How a config names a class: by the face that hands it on, else by its module."""
    for room, names in read_faces().items():
        if names.get(thing.__name__) == thing.__module__:
            return f"{room}.{thing.__name__}"
    return f"{thing.__module__}.{thing.__qualname__}"


def list_names(track: str | None) -> dict[str, str]:
    """Names that a command line may use without the room, with their rooms.

    Args:
        track: the one whose names count, `diffpo.text` say; None for commands that belong to none.
    """
    others = tuple(f"{other}." for other in TRACKS if track is not None and other != track)
    return {
        name: room
        for room, names in reversed(read_faces().items())
        if not f"{room}.".startswith(others)
        for name in names
    }


def import_names(text: str, track: str | None) -> None:
    """Import what a command line or a file names without its room, so that the parser knows it."""
    rooms = list_names(track)
    for name in {name for name in BARE.findall(text) if name in rooms}:
        getattr(import_module(rooms[name]), name)


def import_all(track: str | None) -> Iterator[str]:
    """Import all names, so that help can list them; what is yielded could not be, because a package is missing."""
    for name, room in list_names(track).items():
        try:
            getattr(import_module(room), name)
        except ImportError as error:
            yield f"{room}.{name} ({error})"


def suggest_names(message: str, track: str | None) -> list[str]:
    """Names of ours that are close to some word of an error."""
    rooms = list_names(track)
    words = [word for word in re.findall(r"\b[A-Z]\w+\b", message) if word not in rooms]
    close = (match for word in words for match in get_close_matches(word, rooms, n=3, cutoff=0.75))
    return [f"{rooms[name]}.{name}" for name in dict.fromkeys(close)]


def suggest_search(message: str) -> str | None:
    """What lets Python find a module of the user's own that an error does not know; None if it is about none."""
    missing = re.search(r"No module named '(\w+)'", message)
    if missing is None:
        return None
    name = missing[1]
    if any(Path(place).exists() for place in (name, f"{name}.py")):
        return f"{name} lies in this folder, where `diffpo` does not look; begin the line with `python -m diffpo`."
    return f"Python finds no {name}; install it, or name the folder that it is in: PYTHONPATH=folder diffpo ..."


def track_of(signature: Any) -> str | None:
    """The track of a command, told by the types of its arguments."""
    modules = {getattr(part.annotation, "__module__", "") for part in signature.parameters.values()}
    return next((track for track in TRACKS if any(f"{module}.".startswith(f"{track}.") for module in modules)), None)
