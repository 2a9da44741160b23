"""Commands of several verbs: the first word chooses, and only what it names is imported."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from diffpo.cli.words import require_configs
from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class Verb:
    """What a word starts.

    Attributes:
        module: whose `main` it is.
        help: what it does, in a line.
        takes_words: whether that takes the words of the command line; else its signature says what they mean.
    """

    module: str
    help: str
    takes_words: bool = False


@dataclass(frozen=True)
class VerbGroup:
    """A word that a second one follows.

    Attributes:
        verbs: by the second word.
        help: what they do, in a line.
    """

    verbs: Mapping[str, Verb]
    help: str


def launch_verb(program: str, verbs: Mapping[str, Verb | VerbGroup], words: list[str] | None = None) -> None:
    """Call what the command line names, or say what there is.

    Args:
        program: its name, for messages.
        words: the command line after it; None reads sys.argv.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print(list_verbs(program, verbs))
        sys.exit(0 if words else 2)
    verb = verbs.get(words[0])
    if verb is None:
        close = get_close_matches(words[0], verbs, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(verbs)}."
        print(f"error: {program} knows no {words[0]!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    if isinstance(verb, VerbGroup):
        return launch_verb(f"{program} {words[0]}", verb.verbs, words[1:])
    if verb.takes_words:
        return import_module(verb.module).main(words[1:])
    try:
        require_configs(words[1:])
    except Refusal as refusal:  # now, not when all that the command may need is imported
        print(f"error: {refusal}", file=sys.stderr)
        sys.exit(1)
    launch = import_module("diffpo.cli.command").launch
    return launch(import_module(verb.module).main, words[1:], f"{program} {words[0]}")


def list_verbs(program: str, verbs: Mapping[str, Verb | VerbGroup]) -> str:
    width = max(map(len, verbs))
    lines = [f"  {word:{width}}  {verb.help}" for word, verb in verbs.items()]
    return "\n".join([f"usage: {program} <command> ...", "", *lines, "", f"{program} <command> --help says more."])
