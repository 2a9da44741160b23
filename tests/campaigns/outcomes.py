"""What became of each try of a campaign, and the table of it."""

import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

from diffpo.cli.command import launch
from diffpo.core.refusal import Refusal

REMEDIED = re.compile(
    r"anew|again|aside|without it|as (it is|they are)|\b(choose|copy|delete|download|draw|encode|fetch|free|mend|move|"
    r"name|remove|rename|resume|restore|run|save|set|start|store|take|train|use)\b",
    re.IGNORECASE,
)


@dataclass
class Outcomes:
    """Counts by column; the last row of the table is what must not happen.

    Attributes:
        rows: from the best to the worst.
        worst: what the tries of the last row were.
    """

    rows: tuple[str, ...]
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    worst: list[str] = field(default_factory=list)

    def add(self, column: str, row: str, what: str) -> None:
        assert row in self.rows
        self.counts.setdefault(column, Counter())[row] += 1
        if row == self.rows[-1]:
            self.worst.append(f"{column}: {what}")

    @property
    def tried(self) -> int:
        return sum(count.total() for count in self.counts.values())

    def __str__(self) -> str:
        """As Markdown, with a column for all."""
        whole = sum(self.counts.values(), Counter[str]())
        columns = {**self.counts, "all": whole}
        lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        lines.append(f"| tried | {' | '.join(str(count.total()) for count in columns.values())} |")
        lines += [f"| {row} | {' | '.join(str(count[row]) for count in columns.values())} |" for row in self.rows]
        return "\n".join(lines)


@dataclass
class Heard:
    """What a program said and how it ended.

    Attributes:
        code: 0 if it came to its end.
        fault: a traceback of an error that is none of the user's; empty if there was none.
    """

    code: int = 0
    fault: str = ""
    lines: list[str] = field(default_factory=list)

    def tells(self, *names: str) -> bool:
        """Whether an error or a warning names one of these, in one line with what to do, or what was done."""
        return any(REMEDIED.search(line) and any(name in line for name in names) for line in self.lines)


class Noting(logging.Handler):
    def __init__(self, lines: list[str]):
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"warning: {record.getMessage()}")


def hear(main: Callable[..., None], *arguments: str) -> Heard:
    """Run a program of scripts/ as its command line does, but in this process."""
    before = sys.argv
    sys.argv = [f"{main.__module__}.py", *arguments]
    try:
        with handlers_kept():
            return listen(lambda: launch(main))
    finally:
        sys.argv = before


def listen(work: Callable[[], object]) -> Heard:
    """Do some work, hearing errors and warnings; a Refusal counts as what `launch` prints of it."""
    heard, said = Heard(), io.StringIO()
    noting = Noting(heard.lines)
    logging.getLogger().addHandler(noting)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            work()
    except SystemExit as ended:
        heard.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        said.write(f"\n{ended.code}\n" if isinstance(ended.code, str) else "")
    except Refusal as refusal:
        heard.code = 1
        heard.fault = f"a refusal of several lines: {refusal}" if "\n" in str(refusal).strip() else ""
        said.write(f"\nerror: {refusal}\n")
    except Exception:
        heard.code, heard.fault = 1, traceback.format_exc()
    finally:
        logging.getLogger().removeHandler(noting)
    heard.lines += [line for line in said.getvalue().splitlines() if re.match(r"error: |warning: ", line)]
    if "Traceback (most recent call last)" in said.getvalue():
        heard.fault = heard.fault or said.getvalue()
    return heard


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Afterwards, signals do again what they did: a program that was stopped leaves them as the system has them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def stop_here() -> None:
    """As a scheduler that ends a job."""
    os.kill(os.getpid(), signal.SIGTERM)
