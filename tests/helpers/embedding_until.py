"""Started as a program: the embedding script over an embedder that needs no weights, until it is killed."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tiny_embedders import Means


@dataclass(frozen=True, eq=False)
class Logged(Means):
    """
    Attributes:
        log: file that gets the captions of each chunk.
        deadly: number of the call in which the process is killed; 0 is none.
    """

    log: Path
    deadly: int = 0

    def __call__(self, chunks):
        calls = self.log.with_suffix(f".{os.getpid()}")
        calls.write_text(str(number := 1 + int(calls.read_text() if calls.exists() else 0)))
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        found = super().__call__(chunks)
        with self.log.open("a") as lines:
            lines.writelines(f"{text}\n" for text in found.profiles)
        return found


if __name__ == "__main__":
    import torch

    from diffpo.commands import embed_users
    from diffpo.data.layouts import Columns

    torch.set_num_threads(1)
    pairs, output_dir, log, deadly = sys.argv[1:]
    embed_users.main(Logged(Path(log), int(deadly)), Columns(pairs), Path(output_dir), shots=2)
