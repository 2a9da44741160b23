"""What a new class leaves of the values that were said before it, and what it drops."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml

Resolve = Callable[[list[str]], Mapping[str, Any]]
LONGEST = 60  # characters of a value that a line shows


@dataclass(frozen=True)
class Drop:
    """A value that a file or an earlier argument said, and that no longer holds.

    Attributes:
        by: the argument that chose another class above it.
        key: its name on a command line.
        value: what was said.
    """

    by: str
    key: str
    value: Any


def settle_overrides(args: list[str], resolve: Resolve) -> tuple[list[str], list[Drop]]:
    """The same command line, in which a class that replaces another one keeps what both mean alike.

    That is what a file or an earlier argument said of a field that both classes have from one declaration: where one
    of them declares the field anew, with its own default, they may mean different things by it. The rest is dropped,
    and so is what an option says that stands before a file which says something else.

    Args:
        args: without the program's name.
        resolve: a command line that may lack arguments as a nested config, defaults included.

    Returns:
        The command line, which says again what is kept, and what is dropped. Where a later argument says it anew,
        nothing is.
    """
    settled, drops = list[str](), dict[str, Drop]()
    said = set[str]()  # by what came before, and not dropped since
    options = set[str]()  # what is said by options, not by files
    for step in split_options(args):
        named, is_file = read_option(step), step[0].partition("=")[0] == "--config"
        overruled = options & named.keys() if is_file else set[str]()
        earlier = flatten_config(resolve(settled)) if overruled else {}
        for place in sorted(name for name, value in named.items() if isinstance(value, str)):
            below = {key for key in said if key.startswith(f"{place}.") and key not in named}
            if not below:
                continue
            before, after = resolve(settled), resolve([*settled, *step])
            old, new = flatten_config(before).get(place), flatten_config(after).get(place)
            if old == new or not (isinstance(old, str) and isinstance(new, str)):
                continue
            kept = {f"{place}.{name}" for name in find_shared(locate(old), locate(new))}
            fields_of = {key: ".".join(key.split(".")[: place.count(".") + 2]) for key in below}
            if again := sorted(kept & set(fields_of.values())):
                settled += [
                    f"--{place}={new}",
                    *(f"--{name}={write_value(find_branch(before, name))}" for name in again),
                ]
            held = flatten_config(before)
            lost = sorted(key for key, name in fields_of.items() if name not in kept)
            drops |= {key: Drop(" ".join(step), key, held[key]) for key in lost if key in held}
            said -= set(lost)
        settled += spell_null(step, named, settled, resolve)
        said |= named.keys()
        options = options - overruled if is_file else options | named.keys()
        drops = {key: drop for key, drop in drops.items() if key not in named}
        drops |= {key: Drop(" ".join(step), key, earlier[key]) for key in sorted(overruled) if key in earlier}
    return settled, list(drops.values())


def spell_null(step: list[str], named: Mapping[str, Any], before: list[str], resolve: Resolve) -> list[str]:
    """The same option; null for an argument of a class within a class as the whole of the outermost one.

    jsonargparse 4.53 takes such a null for the text "None".
    """
    name = next(iter(named), "")
    place, _, field = name.rpartition(".")
    if named != {name: None} or "." not in place:
        return step
    root, _, inner = place.partition(".")
    whole = deepcopy(resolve(before).get(root))
    if not isinstance(whole, dict) or "class_path" not in whole:
        return step
    branch = find_branch(whole, inner)
    if not isinstance(branch, dict) or "class_path" not in branch:
        return step
    branch.setdefault("init_args", {})[field] = None
    return [f"--{root}={json.dumps(whole)}"]


def tell_drops(drops: list[Drop], final: Mapping[str, Any]) -> list[str]:
    """One line for each argument that drops something, with what holds instead.

    Args:
        final: the resolved config.
    """
    now = flatten_config(final)
    told: dict[str, list[str]] = {}
    for drop in drops:
        if drop.key not in now:
            told.setdefault(drop.by, []).append(f"{drop.key} {shorten(drop.value)} (gone)")
        elif now[drop.key] != drop.value:
            told.setdefault(drop.by, []).append(f"{drop.key} {shorten(drop.value)} -> {shorten(now[drop.key])}")
    return [f"dropped by {by}: {', '.join(values)}" for by, values in told.items()]


def split_options(args: list[str]) -> Iterator[list[str]]:
    """The words of a command line, those of an option together."""
    step = list[str]()
    for word in args:
        if word.startswith("--") and step:
            yield step
            step = []
        step.append(word)
    if step:
        yield step


def read_option(step: list[str]) -> dict[str, Any]:
    """What an option says, by names as in `flatten_config`; of a file, all that is in it."""
    name, equals, value = step[0].removeprefix("--").partition("=")
    value = value if equals else " ".join(step[1:])
    if name == "config":
        config = load_text(Path(value).read_text() if os.path.isfile(value) else value)
        return flatten_config(config) if isinstance(config, Mapping) else {}
    place = ".".join(part for part in name.removesuffix("+").split(".") if part not in ("init_args", "class_path"))
    found = load_text(value)
    return {place: value if isinstance(found, str) else found} | flatten_config(found, place)


def load_text(text: str) -> Any:
    """YAML, or the text itself if it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def flatten_config(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A config by the names of its values on a command line: `objective` is a class, `objective.guard.mu` a number."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    said = {prefix: tree["class_path"]} if "class_path" in tree else {}
    for name, branch in tree.items():
        if name == "init_args":
            said |= {key: value for key, value in flatten_config(branch, prefix).items() if key != prefix}
        elif name != "class_path":
            said |= flatten_config(branch, f"{prefix}.{name}" if prefix else name)
    return said


def find_branch(tree: Any, name: str) -> Any:
    """The branch of a config that has such a name on a command line."""
    for part in name.split("."):
        tree = tree.get("init_args", tree)[part]
    return tree


def write_value(value: Any) -> str:
    """A value as a command line says it."""
    return value if isinstance(value, str) else json.dumps(value)


def shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def find_shared(old: Any, new: Any) -> set[str]:
    """Fields that two classes have from one declaration."""
    if not (is_dataclass(old) and is_dataclass(new)):
        return set()
    return {field.name for field in {*fields(old)} & {*fields(new)}}
