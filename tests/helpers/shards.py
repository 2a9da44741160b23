"""Tar shards in WebDataset format, and encoded pictures to put into them."""

import io
import tarfile
from pathlib import Path

from tiny import picture


def png(color: str = "red", **settings) -> bytes:
    buffer = io.BytesIO()
    picture(color, **settings).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, records: list[dict[str, bytes]]) -> Path:
    """One tar; each record is a mapping from the ending of a file to its content."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, record in enumerate(records):
            for ending, content in record.items():
                info = tarfile.TarInfo(f"{path.stem}{number:05d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def pickapic_shards(folder: Path, labels: tuple[tuple[str, ...], ...] = (("1", "0"), ("0.5",))) -> Path:
    """Shards of Pick-a-Pic, one per tuple of labels; prompt "s.n" is that of record n of shard s."""
    for s, within in enumerate(labels):
        records = [
            {
                "jpg_0.jpg": png(seed=100 * s + 2 * n),
                "jpg_1.jpg": png(seed=100 * s + 2 * n + 1),
                "label_0.txt": label.encode(),
                "original_prompt.txt": f"{s}.{n}".encode(),
            }
            for n, label in enumerate(within)
        ]
        shard(folder / f"{s:05d}.tar", records)
    return folder
