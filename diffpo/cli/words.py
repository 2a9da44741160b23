"""What the words of a command line say by themselves, before anything of the command is imported."""

import os
from collections.abc import Iterator
from pathlib import Path

from diffpo.cli.config_files import require_readable
from diffpo.cli.moved import find_moved, find_old_options
from diffpo.cli.overrides import split_options
from diffpo.core.refusal import Refusal
from diffpo.storage.shipped import find_recipe


def require_configs(args: list[str]) -> list[str]:
    """The same command line, in which a recipe's name is the path of its file.

    This needs neither the command nor a parser, which are seconds of imports away.

    Raises:
        Refusal: if a config is none, cannot be read, or names something that has moved, or if an argument does.
    """
    found = find_configs(args)
    for path in list_configs(found):
        require_readable(path)
    require_current(found, read_configs(found))
    return found


def read_configs(args: list[str]) -> str:
    """All files that a command line names, one after the other."""
    return "\n".join(Path(path).read_text(errors="replace") for path in list_configs(args) if os.path.isfile(path))


def find_configs(args: list[str]) -> list[str]:
    """The same command line, in which a recipe's name is the path of its file."""
    found = list[str]()
    for step in split_options(args):
        name, equals, value = step[0].partition("=")
        if name == "--config" and (value if equals else step[1:2]) and not is_config(value or step[1]):
            path, rest = str(find_recipe(value or step[1])), step[1:] if equals else step[2:]
            found += [f"--config={path}", *rest]
        else:
            found += step
    return found


def list_configs(args: list[str]) -> Iterator[str]:
    """The files that a command line names."""
    for step in split_options(args):
        name, equals, value = step[0].partition("=")
        if name == "--config":
            yield value if equals else " ".join(step[1:])


def is_config(said: str) -> bool:
    """Whether it is a file, or YAML itself, as the parser also takes it."""
    return os.path.isfile(said) or "\n" in said or ":" in said or "{" in said


def require_current(args: list[str], files: str) -> None:
    """Raise a Refusal if arguments or files name options or classes as earlier versions did."""
    if options := find_old_options(args, files):
        old, new = options[0]
        raise Refusal(f"The option {old} is {new} now; name it so.")
    if moved := find_moved("\n".join([*args, files])):
        old, new = moved[0]
        more = f" ({len(moved) - 1} more have moved, too)" if len(moved) > 1 else ""
        raise Refusal(f"{old} is {new} now{more}; name it so.")
