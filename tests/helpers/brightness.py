"""A scorer that needs no weights; and, started as a program, the script over it, in shards of few pairs."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffpo.diffusion.annotate import shards as pair_shards
from diffpo.evaluation.scorer import Scorer

SHARD = 18_000  # bytes: two pairs of pictures of noise


@dataclass(frozen=True)
class Brightness(Scorer):
    """Mean of all pixels.

    Attributes:
        log: file that gets a line per picture that was scored.
        deadly: number of the call in which the process is killed.
    """

    log: Path | None = None
    deadly: int | None = None
    version: str = "mean"

    @property
    def name(self) -> str:
        return "brightness"

    @property
    def model_id(self) -> str:
        return "none"

    def __call__(self, prompts, candidates):
        if self.log:
            calls = self.log.with_suffix(f".{os.getpid()}")
            calls.write_text(str(number := 1 + int(calls.read_text() if calls.exists() else 0)))
            if number == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        found = [float(np.asarray(picture).mean()) for picture in candidates]
        if self.log:
            with self.log.open("a") as lines:
                lines.writelines(f"{score}\n" for score in found)
        return torch.tensor(found)


if __name__ == "__main__":
    from diffpo.commands import score as score_pairs
    from diffpo.data.layouts import PairFolder

    torch.set_num_threads(1)
    pair_shards.SHARD = SHARD
    pairs, output_dir, log, deadly = sys.argv[1:]
    scorer = Brightness(Path(log), int(deadly) or None)
    score_pairs.main(scorer, PairFolder(pairs), Path(output_dir), batch_size=2)
