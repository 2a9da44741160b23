"""Command lines from signatures: YAML files, overrides at any level, and errors of one line."""

import inspect
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from tqdm import tqdm

from diffpo.cli.causes import name_cause
from diffpo.cli.given import require_given
from diffpo.cli.names import find_public_path, import_all, import_names, suggest_names, suggest_search, track_of
from diffpo.cli.overrides import settle_overrides, tell_drops
from diffpo.cli.private import parse_unfinished, start_classes_from_their_defaults
from diffpo.cli.words import read_configs, require_configs
from diffpo.core.refusal import Refusal
from diffpo.processes.stopping import SIGNALS, Stopped, end_at_once, hear_signals, tell_line
from diffpo.processes.workers import find_lost_process
from diffpo.storage.shipped import replace_shipped


def launch(main: Callable[..., None], args: list[str] | None = None, program: str | None = None) -> None:
    """Parse the command line by `main`'s signature and call it, with the resolved config as `settings`.

    A refusal is printed as one line; any other error is a fault of the program and keeps its traceback. After a signal
    (Ctrl-C; SIGTERM, SIGUSR1 and SIGUSR2 of schedulers) a line says how the work goes on; the exit code is then 128 +
    signal.

    Args:
        args: command line without the program's name; None reads sys.argv.
        program: its name, for messages; None reads sys.argv, too.
    """
    try:
        with hear_signals(end_at_once):
            line = CommandLine(main, sys.argv[1:] if args is None else args, program)
            if os.environ.get("RANK", "0") == "0":  # of several processes, one tells
                for told in [*line.taken, *line.dropped]:
                    print(told, file=sys.stderr)
            main(**line.arguments(), settings=line.settings)
    except Stopped as stopped:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # whoever insists now ends it without a word
        tell_line(
            " ".join(
                part
                for part in (f"Stopped by {stopped.name}.", str(stopped), f"To go on: {write_command(main)}")
                if part
            )
        )
        sys.exit(128 + stopped.number)
    except Exception as error:
        refusal = refusal_in(error) or find_lost_process(error)
        if refusal is None:
            raise
        end_bars()
        print(f"error: {refusal}", file=sys.stderr)
        sys.exit(1)


def end_bars() -> None:
    """Progress bars that an error left open end their line: it is told on one of its own."""
    bars: Any = tqdm
    for bar in list(bars._instances):
        bar.close()


def write_command(main: Callable[..., None]) -> str:
    """The command line that goes on with what this one has begun."""
    before = zip(["", *sys.argv], sys.argv, strict=False)
    arguments = [word for last, word in before if not word.startswith("--resume") and last != "--resume"]
    if "resume" in inspect.signature(main).parameters:
        arguments.append("--resume=latest")
    return f"accelerate launch {shlex.join(arguments)}"


def refusal_in(error: BaseException | None) -> Refusal | None:
    """The error itself, or the one it was caused by: where null is allowed, jsonargparse wraps what it catches."""
    while error is not None:
        if isinstance(error, Refusal):
            return error
        error = error.__cause__
    return None


def parse(main: Callable[..., None], args: list[str] | None = None) -> tuple[dict[str, Any], str]:
    """Arguments of `main` as objects, and everything that was chosen, defaults included, as YAML.

    Args:
        args: command line without the program's name; None reads sys.argv.
    """
    line = CommandLine(main, sys.argv[1:] if args is None else args)
    return line.arguments(), line.settings


class CommandLine:
    """A command line, read by the signature of `main`; nothing is built of it yet.

    Attributes:
        settings: everything that was chosen, defaults included, as YAML.
        taken: lines about paths that only the package has.
        dropped: lines about what files and earlier arguments say and what no longer holds, see `settle_overrides`.

    Args:
        args: without the program's name.
        program: its name; None reads sys.argv.

    Raises:
        Refusal: if a file cannot be read, or names something that has moved.
    """

    def __init__(self, main: Callable[..., None], args: list[str], program: str | None = None):
        args = require_configs(args)
        self.main, track = main, track_of(inspect.signature(main))
        missing = list(import_all(track)) if asks_for_help(args) else []
        import_names("\n".join([*args, read_configs(args)]), track)
        self.parser = Parser(prog=program, description=(main.__doc__ or "").split("\n")[0], allow_abbrev=False)
        self.parser.track = track
        if missing:
            self.parser.epilog = f"Not listed, as a package is missing: {'; '.join(missing)}."
        self.parser.add_argument("--config", action="config", help="YAML file; several are layered, later ones win.")
        self.parser.add_function_arguments(main, skip={"settings"}, sub_configs=False)
        self.parser.set_defaults(lists_spelled_out(self.parser.get_defaults()))
        settled, drops = settle_overrides(args, self.so_far)
        self.chosen = self.parser.parse_args(settled)
        self.chosen.pop("config")
        self.taken = self._take_shipped()
        self.settings = self.parser.dump(self.chosen, skip_unset=False)
        self.dropped = tell_drops(drops, yaml.safe_load(self.settings))

    def arguments(self) -> dict[str, Any]:
        """What was chosen, as objects.

        Raises:
            Refusal: if null stands where a value has to be given, or a class refuses its arguments.
        """
        require_given(self.main, self.chosen)
        return vars(self.parser.instantiate(self.chosen))

    def _take_shipped(self) -> list[str]:
        """Let paths that this folder lacks and the package has be the package's; a line tells of each."""
        taken: dict[str, str] = {}
        tree = json.loads(self.parser.dump(self.chosen, format="json", skip_unset=False, skip_validation=True))
        tree = replace_shipped(tree, taken)
        if taken:
            self.chosen = self.parser.parse_object(tree)
            self.chosen.pop("config", None)
        return [f"{name} is not in this folder; what came along is taken: {path}" for name, path in taken.items()]

    def so_far(self, args: list[str]) -> dict[str, Any]:
        """The resolved config of a command line that may lack arguments."""
        chosen = parse_unfinished(self.parser, args)
        chosen.pop("config")
        return json.loads(self.parser.dump(chosen, format="json", skip_unset=False, skip_validation=True))


class Parser(ArgumentParser):
    """One whose errors are the error and a hint, without the usage of all options.

    Attributes:
        track: whose names are hinted at, see `diffpo.cli.names`.
    """

    track: str | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse's own parsers of parts
            super().error(message, ex)
        close = [*suggest_names(message, self.track), *self._suggest_options(message)]
        near = f"did you mean {' or '.join(close)}?" if close else f"{self.prog} --help lists all options."
        hint = suggest_search(message) or near
        print(f"error: {name_cause(message).rstrip()}\nhint: {hint}", file=sys.stderr)
        sys.exit(2)

    def _suggest_options(self, message: str) -> list[str]:
        """Options that are close to those that the error does not know."""
        ours = [option for action in self._actions for option in action.option_strings]
        unknown = re.findall(r"(?<!\S)(--[\w.]+)", message) if message.startswith("unrecognized") else []
        return [match for option in unknown for match in get_close_matches(option, ours, n=1, cutoff=0.8)]


def asks_for_help(args: list[str]) -> bool:
    names = [arg.partition("=")[0] for arg in args]
    return any(name in ("-h", "--help") or (name.startswith("--") and name.endswith(".help")) for name in names)


def lists_spelled_out(defaults: Namespace) -> dict[str, list[dict[str, Any]]]:
    """Defaults that are lists of objects, as YAML would say them; jsonargparse does so for single objects only."""
    return {
        key: [{"class_path": find_public_path(type(item)), "init_args": asdict(item)} for item in value]
        for key, value in defaults.items()
        if isinstance(value, list) and value and all(is_dataclass(item) for item in value)
    }


start_classes_from_their_defaults()
# A config may name classes, whose modules are then imported: never ours to run are those of Python itself. Where any
# value may stand, a mapping with a class_path is one, and builds nothing.
set_parsing_settings(import_path_denylist=sorted(sys.stdlib_module_names), instantiate_subclass_spec_in_any=False)
