"""Null in a config where a value has to be given: the parser takes it for one that is yet to come."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pydoc import locate
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import Namespace

from diffpo.core.refusal import Refusal


def require_given(build: Callable[..., Any], chosen: Mapping[str, Any] | Namespace, place: str = "") -> None:
    """Raise a Refusal if null is chosen for an argument that takes none, here or in what the arguments are built of.

    Args:
        build: a function or class; what its annotations do not say, it takes.
        chosen: arguments of it, parsed.
        place: of these in the whole config.
    """
    kinds, defaults = annotations(build), inspect.signature(build).parameters
    for name, value in dict(chosen).items() if isinstance(chosen, Mapping) else vars(chosen).items():
        kind, here = kinds.get(name, Any), f"{place}.{name}".lstrip(".")
        if value is None and not takes_null(kind) and defaults[name].default is not None:
            raise Refusal(f"{here} is null, which it cannot be; give it a value, or leave it out if it has one.")
        for number, part in enumerate(value if isinstance(value, list) else [value]):
            if (found := split_built(kind, part)) is not None:
                require_given(*found, f"{here}[{number}]" if isinstance(value, list) else here)


def annotations(build: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(build.__init__ if inspect.isclass(build) else build)
    except (NameError, TypeError):  # names that only type checkers know
        return {}


def takes_null(kind: Any) -> bool:
    return kind in (Any, None, NoneType, object) or isinstance(kind, TypeVar | str) or NoneType in get_args(kind)


def split_built(kind: Any, value: Any) -> tuple[Callable[..., Any], Mapping[str, Any] | Namespace] | None:
    """What is built of a value, and its arguments; None if nothing is."""
    if isinstance(value, Namespace | dict) and isinstance(value.get("class_path"), str):
        named: Any = locate(value["class_path"])
        return None if named is None else (named, value.get("init_args") or {})
    built: Any = next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)
    return (built, value) if built is not None and isinstance(value, Namespace) else None
