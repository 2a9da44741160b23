"""Encoding with two rows per file, that may be killed in the middle of one: python encoding_until.py ROOT OUT FILES.

FILES is after how many files this process dies, 0 for never. What each process wrote is in ROOT/log.<its number>.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from tiny_encoded import base, pixels

from diffpo.commands import encode as encode_pairs
from diffpo.storage import arrow

write = arrow.write_batch


def main(root: Path, output_dir: Path, files: int) -> None:
    arrow.PER_FILE = 2
    log = root / f"log.{os.getpid()}"
    log.write_text("")

    def logged(file: Path, features, records) -> None:
        if files and len(log.read_text().splitlines()) == files:
            file.with_suffix(".unfinished").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, features, list(records))
        with log.open("a") as lines:
            lines.write(f"{file.name}\n")

    arrow.write_batch = logged
    encode_pairs.main(base(root), pixels(root), output_dir, batch_size=4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
