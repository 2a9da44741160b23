"""Reference answers that are computed once: with draws that repeat, they are numbers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt32
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.references import SCORES, Reference, Score
from diffpo.core.refusal import Refusal
from diffpo.storage.digests import describe_damage, read_json
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import IDENTITY, REMEDY, require_same, settle_file, write_json
from diffpo.storage.lock import Lock

PRIME = 2**32 - 5
BLOCK = 2**16  # entries per write while a file is made

log = logging.getLogger(__name__)


class CachedReference(Reference):
    """A frozen reference that is asked only what was not asked before, in this run or another that shares the folder.

    Draws that repeat after `cycle` epochs (`PairData.cycle`) leave each pair `cycle` times and noises, so a sweep over
    losses, betas and learning rates pays for the reference once. It is not the published algorithm, which never draws
    the same noise again; docs/data.md, "Encode once", says what few draws cost.

    Answers of one kind (scores, or the noise of inverted pictures) lie in one file of cycle x ids x candidates x ...
    numbers in fp32, NaN where nothing is known yet, which all processes of a machine (or, on a shared disk, of
    several) map into memory. A kill loses nothing; a number that two processes write at once is the same number.
    Beside it is a file with a checksum of each pair's answers, which runs that share a folder can keep up as no digest
    of a whole file can be: answers that do not fit theirs count as unknown, and are computed anew.

    Args:
        inner: answers what is not known; None if `is_complete`.
        folder: of the files; see `open_answers`.

    Attributes:
        looked_up, computed: scores of pairs.

    Raises:
        Refusal: if a file is damaged.
    """

    def __init__(self, inner: Reference | None, folder: Path):
        self.inner, self.folder = inner, folder
        shapes = read_json(folder / IDENTITY)["shapes"]
        self.known = {what: map_table(folder / f"{what}.npy", "<f4", shape) for what, shape in shapes.items()}
        self.checks = {what: map_table(folder / check_of(what), "<u4", shape[:2]) for what, shape in shapes.items()}
        self.draws: Draws | None = None
        self.looked_up = self.computed = 0
        self.told = False  # that some are damaged

    def at(self, draws: Draws | None) -> None:
        self.draws = draws

    def fill(self, number: float) -> None:
        """Know the same number for every answer, to measure what remembering costs."""
        for what, known in self.known.items():
            checks = self.checks[what]
            known[:] = np.float32(number)
            checks[:] = checksums(known.reshape(checks.size, -1)).reshape(checks.shape)

    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        """Answers of shape (k, b, ...), looked up or computed.

        Raises:
            Refusal: if something of another kind or shape is asked for than there is room for, or if the folder is
                not of these pairs.
        """
        if self.draws is None:
            assert self.inner is not None
            return self.inner(score, what)
        known, epoch, row = self.known[what], list(self.draws.epoch), list(self.draws.row)
        if max(epoch) >= len(known) or max(row) >= known.shape[1]:
            raise Refusal(
                f"{self.folder} remembers {known.shape[1]} pairs in {len(known)} epochs, but row {max(row)} "
                f"of epoch {max(epoch)} is asked for; let data.cycle be what it was made with."
            )
        kept, checks = known[epoch, row], self.checks[what][epoch, row]
        found, intact = kept.swapaxes(0, 1), is_intact(kept, checks)
        if intact.all():
            self.looked_up += len(row) * (what == SCORES)
            return torch.from_numpy(found.copy()).to(self.draws.device, non_blocking=True)
        if ((checks != 0) & ~intact).any() and not self.told:
            self.told = True
            log.warning(f"Some answers ({what}) in {self.folder} are damaged; they are computed anew.")
        if self.inner is None:
            raise Refusal(f"{self.folder} lacks the {what} of rows {row[:5]}; remove it, and start the run again.")
        answers = self.inner(score, what)
        if answers.shape != found.shape:
            raise Refusal(
                f"The objective asks its reference for a tensor of shape {tuple(answers.shape)}, only numbers of "
                f"shape {found.shape} can be remembered; set reference_cache to null."
            )
        kept = answers.transpose(0, 1).float().cpu().numpy()
        known[epoch, row] = kept
        self.checks[what][epoch, row] = checksums(kept)
        self.computed += len(row) * (what == SCORES)
        return answers

    def is_complete(self, rows: np.ndarray) -> bool:
        """Whether every score of these rows is known, so that no reference is needed: what else is asked is asked
        before."""
        known, checks = self.known[SCORES], self.checks[SCORES]
        return all(is_intact(known[epoch][rows], checks[epoch][rows]).all() for epoch in range(len(known)))


def open_answers(folder: Path, identity: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Make the files of answers, or check that those that are there are of the same work; one process calls this.

    Args:
        identity: what the answers depend on.
        shapes: epochs, ids, candidates and shape of one answer, by what is asked for.

    Raises:
        Refusal: if the folder holds answers of something else; it says what differs.
        Refusal: if the disk is full.
    """
    whole = {**identity, "shapes": {what: list(shape) for what, shape in shapes.items()}}
    if (folder / IDENTITY).exists():
        require_same(read_json(folder / IDENTITY), whole, folder, "name another folder in reference_cache")
        return
    lock = Lock(folder, wait=True)  # of two runs that begin at once one makes the files
    if not (folder / IDENTITY).exists():
        for what, shape in shapes.items():
            make_table(folder / f"{what}.npy", shape)
            make_table(folder / check_of(what), shape[:2], "<u4", 0.0)
        write_json(folder / IDENTITY, whole)
    lock.release()
    require_same(read_json(folder / IDENTITY), whole, folder, "name another folder in reference_cache")


def check_of(what: str) -> str:
    return f"{what}-checks.npy"


def map_table(table: Path, kind: str, shape: Sequence[int]) -> np.ndarray:
    """A file of numbers in memory.

    Raises:
        Refusal: if it is absent, or is not of this kind and shape.
    """
    try:
        found = np.load(table, mmap_mode="r+")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, UnicodeError) as error:
        raise Refusal(describe_damage(table, error)) from error
    if (found.dtype.str, list(found.shape)) != (kind, list(shape)):
        raise Refusal(describe_damage(table, f"it holds {found.shape} numbers of {found.dtype}"))
    return found


def checksums(answers: Float[np.ndarray, "..."]) -> UInt32[np.ndarray, "..."]:
    """One of the answers of each pair, over all axes but the first of as many as there are pairs; never 0.

    Words times numbers that a prime does not divide, modulo that: no bit can change alone without its sum changing.
    """
    words = np.ascontiguousarray(answers, dtype="<f4").view("<u4").reshape(len(answers), -1).astype(np.uint64)
    factors = np.arange(words.shape[1], dtype=np.uint64) * np.uint64(2654435761) % np.uint64(PRIME - 1) + np.uint64(1)
    return ((words * factors % np.uint64(PRIME)).sum(axis=1) % np.uint64(PRIME) + np.uint64(1)).astype("<u4")


def is_intact(answers: Float[np.ndarray, "..."], checks: UInt32[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Whether all answers of a pair are known, and are those that were kept."""
    flat = answers.reshape(checks.size, -1)
    return (np.isfinite(flat).all(-1) & (checksums(flat) == checks.ravel())).reshape(checks.shape)


def make_table(table: Path, shape: tuple[int, ...], kind: str = "<f4", value: float = np.nan) -> None:
    """A file of nothing but one number, written out: one with holes could fail much later, on a full disk."""
    unfinished = table.with_suffix(".npy.unfinished")
    with name_failed_writes(str(table), REMEDY):
        table.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
            left = int(np.prod(shape))
            for begin in range(0, left, BLOCK):
                file.write(np.full(min(BLOCK, left - begin), value, dtype=kind).tobytes())
        settle_file(unfinished, table)


def require_still(reference: Callable[..., Reference] | None) -> None:
    """Raise a Refusal if a reference was chosen, which may move."""
    if reference is not None:
        raise Refusal(
            "Only the untuned base can be remembered, which never moves; set reference or reference_cache to null."
        )
