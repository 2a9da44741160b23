"""The skeleton of work on all pairs of a source: open both, look whether it is done, work, finish, tell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from accelerate import Accelerator, PartialState

from diffpo.core.refusal import require_at_least
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.storage.job_folder import JobFolder, join_processes, tell_result


@dataclass(frozen=True, eq=False)
class Job:
    """Work that all processes share, and the folder that it fills.

    After `open`, every process says by `folder.finished` what the result depends on, which returns it if it is there;
    then looks whether all else can be used; calls `begin`, after which files are written; and calls `finish` once all
    results are there.

    Attributes:
        data: what a result depends on in any case.
    """

    state: Accelerator
    folder: JobFolder
    pairs: PairsInOrder
    data: dict[str, Any]

    @classmethod
    def open(cls, folder: JobFolder, source: Source, rows: Sequence[RowMap], seed: int, batch_size: int) -> "Job":
        """
        Args:
            rows: what drops pairs before.
            seed: of the row maps.

        Raises:
            Refusal: if the batch size is not positive, the source cannot be used, or the folder holds something else.
        """
        require_at_least(1, batch_size=batch_size)
        state = join_processes()
        folder.require_ours()
        with state.main_process_first():
            pairs = PairsInOrder(source, rows, seed)
        return cls(state, folder, pairs, {"source": str(source), "rows": [str(row_map) for row_map in rows]})

    @property
    def is_silent(self) -> bool:
        """Whether another process shows how far it is."""
        return not self.state.is_main_process

    def begin(self, identity: Mapping[str, Any] | None = None) -> None:
        """Nobody writes before all have looked.

        Args:
            identity: what the result depends on, to be written down; None if the ledgers of the work do so.
        """
        self.state.wait_for_everyone()
        if identity is not None:
            self.folder.begin(identity, self.state.process_index)

    def finish(self, about: Mapping[str, Any], names: Sequence[str]) -> None:
        """Write the summary, by which all is there.

        Args:
            names: of the results.
        """
        if self.state.is_main_process:
            self.folder.finish(about, names)
        self.state.wait_for_everyone()


def run_job(
    work: Callable[[], dict[str, Any]],
    summary: Path,
    settings: str,
    done: str,
    describe: Callable[[dict[str, Any], Path], str],
    repeats: bool = True,
) -> None:
    """What a command does around such work: it ends with what was made, in sentences.

    Args:
        work: returns what is in the summary.
        summary: the file that is there once the work is done.
        settings: the resolved config.
        done: what is done to the pairs, e.g. "scored".
        describe: the sentences.
        repeats: whether they are said again of what was finished before.
    """
    transformers.utils.logging.disable_progress_bar()
    was_finished = summary.exists()
    found = work()
    if PartialState().is_main_process:
        sentences = "" if was_finished and not repeats else describe(found, summary.parent)
        tell_result(summary.parent, was_finished, settings, done, sentences)
    PartialState().destroy_process_group()
