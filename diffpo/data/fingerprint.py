"""What tells data from others under the same path, without reading all of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffpo.data.files.places import Outside, find_inside
from diffpo.data.files.tables import PICTURES
from diffpo.data.pairs import PairTable
from diffpo.data.source import Layout
from diffpo.storage.digests import FILES, digest_of

LOOKED_AT = 64  # rows whose bytes are read


def of_tables(tables: Sequence[PairTable]) -> dict[str, Any]:
    """Of the tables of a source, by number: names and sizes of files, rows, types of columns, and a digest of some
    rows with their pictures. Which rows these are depends on their number alone."""
    return {str(number): of_files(table.source) | of_rows(table) for number, table in enumerate(tables)}


def of_streams(sources: Sequence[Layout]) -> dict[str, Any]:
    """Of sources that are read as streams: names and sizes of files."""
    return {str(number): of_files(source) for number, source in enumerate(sources)}


def of_files(source: Layout) -> dict[str, Any]:
    """Sizes of the files of a source, as far as they are here; and, where a folder names its files with their digests,
    a digest of that list."""
    files, folder = source.files(), source.folder
    within = (str(file.relative_to(folder)) if file.is_relative_to(folder) else file.name for file in files)
    found: dict[str, Any] = {"sizes": dict(zip(within, [file.stat().st_size for file in files], strict=True))}
    return found | ({"digests": digest_of(folder / FILES)["sha256"]} if (folder / FILES).is_file() else {})


def of_rows(table: PairTable) -> dict[str, Any]:
    """Number, types, and a digest of some rows as they are stored."""
    rows, digest = len(table.light), hashlib.sha256()
    looked_at = np.sort(np.random.default_rng(rows).choice(rows, min(rows, LOOKED_AT), replace=False)).tolist()
    for row in looked_at:
        digest.update(json.dumps(table.light[row], sort_keys=True, default=str).encode())
        for name, cells in sorted(table.cells.items()):
            add_cell(digest, cells[row][name], table.source.folder)
    types = {
        name: str(kind) for part in list_schemas(table) for name, kind in zip(part.names, part.types, strict=True)
    }
    return {"rows": rows, "columns": dict(sorted(types.items())), f"{len(looked_at)} of the rows": digest.hexdigest()}


def list_schemas(table: PairTable) -> list[Any]:
    """Schemas of what the columns lie in."""
    return [part.data.schema for part in (table.light, *table.cells.values())]


def add_cell(digest: Any, value: Any, folder: Path) -> None:
    """Add a cell to a digest; of a path, what is in the file."""
    if isinstance(value, bytes):
        digest.update(value)
    elif isinstance(value, Mapping):
        for name, inner in sorted(value.items()):
            digest.update(name.encode())
            add_cell(digest, inner, folder)
    else:
        digest.update(read_content(value, folder) or json.dumps(value, default=str).encode())


def read_content(value: Any, folder: Path) -> bytes | None:
    """Of a path to a picture of the data, what is in the file."""
    if not (isinstance(value, str) and value.lower().endswith(tuple(PICTURES))):
        return None
    try:
        file = find_inside(folder, value)
    except Outside:
        return None
    return file.read_bytes() if file.is_file() else None
