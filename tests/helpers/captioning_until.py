"""Started as a program: the captioning script over a captioner that needs no weights, until it is killed."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffpo.annotators.captioners.roles import Captioner, Strategy

TOKENIZER = str(Path(__file__).parents[2] / "assets" / "tiny-sd" / "tokenizer")


@dataclass(frozen=True)
class Logged(Captioner):
    """Says a random number, drawn with the seed.

    Attributes:
        log: file that gets a line per picture.
        deadly: number of the call in which the process is killed; 0 is none.
    """

    log: Path
    deadly: int = 0

    @property
    def identity(self):
        return {"kind": "logged"}

    def __call__(self, pictures, prompts, seeds):
        calls = self.log.with_suffix(f".{os.getpid()}")
        calls.write_text(str(number := 1 + int(calls.read_text() if calls.exists() else 0)))
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        said = [
            f"{prompt} {np.random.default_rng(seed).random()}" for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        with self.log.open("a") as lines:
            lines.writelines(f"{text}\n" for text in said)
        return said


if __name__ == "__main__":
    import torch

    from diffpo.commands import caption as caption_pairs
    from diffpo.data.layouts import PairFolder

    torch.set_num_threads(1)
    pairs, output_dir, log, deadly = sys.argv[1:]
    captioner = Logged(Path(log), int(deadly))
    settings = {"captioner": captioner, "batch_size": 2, "tokenizer": TOKENIZER}
    caption_pairs.main(PairFolder(pairs), Path(output_dir), Strategy.caption, **settings)
