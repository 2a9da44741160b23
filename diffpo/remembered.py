"""Reference answers that are computed once: with draws that repeat, they are numbers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffpo.draws import Draws
from diffpo.files import writing
from diffpo.ledger import IDENTITY, REMEDY, require_same, write_json
from diffpo.references import SCORES, Reference, Score
from diffpo.refusal import Refusal

BLOCK = 2**16  # entries per write while a file is made


class Remembered(Reference):
    """A frozen reference that is asked only what was not asked before, in this run or another that shares the folder.

    Draws that repeat after `cycle` epochs (`PairData.cycle`) leave each pair `cycle` times and noises, so a sweep over
    losses, betas and learning rates pays for the reference once. It is not the published algorithm, which never draws
    the same noise again; README, "Encode once", says what few draws cost.

    Answers of one kind (scores, or the noise of inverted pictures) lie in one file of cycle x ids x candidates x ...
    numbers in fp32, NaN where nothing is known yet, which all processes of a machine (or, on a shared disk, of
    several) map into memory. A kill loses nothing; a number that two processes write at once is the same number.

    Args:
        inner: answers what is not known; None if `is_complete`.
        folder: of the files; see `open_answers`.

    Attributes:
        looked_up, computed: scores of pairs.
    """

    def __init__(self, inner: Reference | None, folder: Path):
        self.inner, self.folder = inner, folder
        shapes = json.loads((folder / IDENTITY).read_text())["shapes"]
        self.known = {what: np.load(folder / f"{what}.npy", mmap_mode="r+") for what in shapes}
        self.draws: Draws | None = None
        self.looked_up = self.computed = 0

    def at(self, draws: Draws | None) -> None:
        self.draws = draws

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
        found = known[epoch, row].swapaxes(0, 1)
        if np.isfinite(found).all():
            self.looked_up += len(row) * (what == SCORES)
            return torch.from_numpy(found.copy()).to(self.draws.device, non_blocking=True)
        if self.inner is None:
            raise Refusal(f"{self.folder} lacks the {what} of rows {row[:5]}; remove it, and start the run again.")
        answers = self.inner(score, what)
        if answers.shape != found.shape:
            raise Refusal(
                f"The objective asks its reference for a tensor of shape {tuple(answers.shape)}, only numbers of "
                f"shape {found.shape} can be remembered; set remember to null."
            )
        known[epoch, row] = answers.transpose(0, 1).float().cpu().numpy()
        self.computed += len(row) * (what == SCORES)
        return answers

    def is_complete(self, rows: np.ndarray) -> bool:
        """Whether every score of these rows is known, so that no reference is needed: what else is asked is asked
        before."""
        return bool(np.isfinite(self.known[SCORES][:, rows]).all())


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
        require_same(json.loads((folder / IDENTITY).read_text()), whole, folder, "name another folder in remember")
        return
    for what, shape in shapes.items():
        make(folder / f"{what}.npy", shape)
    write_json(folder / IDENTITY, whole)


def make(table: Path, shape: tuple[int, ...]) -> None:
    """A file of nothing but NaN, written out: one with holes could fail much later, on a full disk."""
    unfinished = table.with_suffix(".npy.unfinished")
    with writing(str(table), REMEDY):
        table.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            left = int(np.prod(shape))
            for begin in range(0, left, BLOCK):
                file.write(np.full(min(BLOCK, left - begin), np.nan, dtype="<f4").tobytes())
        unfinished.replace(table)


def require_still(reference: Callable[..., Reference] | None) -> None:
    """Raise a Refusal if a reference was chosen, which may move."""
    if reference is not None:
        raise Refusal("Only the untuned base can be remembered, which never moves; set reference or remember to null.")
