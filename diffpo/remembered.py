"""Reference scores that are computed once: with draws that repeat, they are numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffpo.draws import Draws
from diffpo.files import writing
from diffpo.ledger import IDENTITY, REMEDY, require_same, write_json
from diffpo.references import Reference, Score

TABLE = "scores.npy"
BLOCK = 2**16  # entries per write while the file is made


class Remembered(Reference):
    """A frozen reference that is asked only what was not asked before, in this run or another that shares the folder.

    Draws that repeat after `cycle` epochs (`PairData.cycle`) leave each pair `cycle` times and noises, so a sweep over
    losses, betas and learning rates pays for the reference once. It is not the published algorithm, which never draws
    the same noise again; README, "Encode once", says what few draws cost.

    The scores lie in one file of cycle x ids x candidates numbers in fp32, NaN where nothing is known yet, which all
    processes of a machine (or, on a shared disk, of several) map into memory. A kill loses nothing; a number that two
    processes write at once is the same number.

    Args:
        inner: answers what is not known; None if `is_complete`.
        folder: of the file; see `open_scores`.
    """

    def __init__(self, inner: Reference | None, folder: Path):
        self.inner, self.folder = inner, folder
        self.known = np.load(folder / TABLE, mmap_mode="r+")
        self.draws: Draws | None = None
        self.looked_up = self.computed = 0

    def at(self, draws: Draws | None) -> None:
        self.draws = draws

    def __call__(self, score: Score) -> Tensor:
        """Scores of shape (k, b), looked up or computed.

        Raises:
            ValueError: if something else than one number per candidate is asked for, or if the folder is not of
                these pairs.
        """
        if self.draws is None:
            assert self.inner is not None
            return self.inner(score)
        epoch, row = list(self.draws.epoch), list(self.draws.row)
        if max(epoch) >= len(self.known) or max(row) >= self.known.shape[1]:
            raise ValueError(
                f"{self.folder} remembers {self.known.shape[1]} pairs in {len(self.known)} epochs, but row {max(row)} "
                f"of epoch {max(epoch)} is asked for; let data.cycle be what it was made with."
            )
        found = self.known[epoch, row]
        if np.isfinite(found).all():
            self.looked_up += len(row)
            return torch.from_numpy(found.T.copy()).to(self.draws.device, non_blocking=True)
        if self.inner is None:
            raise ValueError(f"{self.folder} lacks scores of rows {row[:5]}; start the run again.")
        scores = self.inner(score)
        if scores.shape != found.T.shape:
            raise ValueError(
                f"The objective asks its reference for a tensor of shape {tuple(scores.shape)}, only numbers of shape "
                f"{found.T.shape} can be remembered; set remember to null."
            )
        self.known[epoch, row] = scores.T.float().cpu().numpy()
        self.computed += len(row)
        return scores

    def is_complete(self, rows: np.ndarray) -> bool:
        """Whether every score of these rows is known, so that no reference is needed."""
        return bool(np.isfinite(self.known[:, rows]).all())


def open_scores(folder: Path, identity: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
    """Make the file of scores, or check that the one that is there is of the same work; one process calls this.

    Args:
        identity: what the scores depend on.
        shape: epochs, ids and candidates.

    Raises:
        ValueError: if the folder holds scores of something else; it says what differs.
        RuntimeError: if the disk is full.
    """
    whole = {**identity, "shape": list(shape)}
    if (folder / IDENTITY).exists():
        require_same(json.loads((folder / IDENTITY).read_text()), whole, folder, "name another folder in remember")
        return
    unfinished = folder / f"{TABLE}.unfinished"
    with writing(str(folder / TABLE), REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:  # written out: a file with holes could fail much later, on a full disk
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            left = int(np.prod(shape))
            for begin in range(0, left, BLOCK):
                file.write(np.full(min(BLOCK, left - begin), np.nan, dtype="<f4").tobytes())
        unfinished.replace(folder / TABLE)
    write_json(folder / IDENTITY, whole)
