"""Prompts from whatever holds them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.files.tables import heavy_columns, open_table, require_columns, require_unicode
from diffpo.data.typed import MARK, show_value, texts_of
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.text_files import read_text


@dataclass(frozen=True)
class Prompts:
    """What models are asked to draw.

    Args:
        path: txt file (a prompt per line), json file (a list of prompts or of objects), or what else holds a table:
            jsonl, parquet, csv, a folder of them, a hub id.
        column: where in a table or object the prompt is; of several captions, the first is taken.
        split: of a hub id.
        count: only the first of them; null is all.
        revision: of a hub id.

    Raises:
        Refusal: if `count` is not positive; by `read`, if there are none or they cannot be read.
    """

    path: str
    column: str = "prompt"
    split: str = "test"
    count: int | None = None
    revision: str | None = None

    kind: ClassVar[str] = "prompt"

    def __post_init__(self):
        require_at_least(1, **{f"{self.kind}s.count": self.count})

    def read(self) -> list[dict[str, Any]]:
        """One record per prompt: `prompt`, and whatever else the file says of it."""
        records = self.lines() if self.path.endswith((".txt", ".json")) else self.table()
        records = records[: self.count]
        if not records:
            raise Refusal(f"{self.path} holds no {self.kind}s.")
        return [record | {"prompt": self.text(record["prompt"], number)} for number, record in enumerate(records)]

    def text(self, value: Any, number: int) -> str:
        texts = texts_of(value)
        if not texts or not texts[0].strip():
            raise Refusal(
                f"{self.kind.capitalize()} {number} of {self.path} is {show_value(value)}; each needs to be a text."
            )
        return texts[0]

    def lines(self) -> list[dict[str, Any]]:
        with name_failed_loads(self.path, f"{self.kind}s"):
            text = read_text(Path(self.path)).removeprefix(MARK)
            found = json.loads(text) if self.path.endswith(".json") else text.split("\n")
            if not isinstance(found, list):
                raise Refusal(f"it is a {type(found).__name__}, not a list")
        if self.path.endswith(".txt"):
            found = [line for line in found if line.strip()]
        return [self.record(entry, number) for number, entry in enumerate(found)]

    def record(self, entry: Any, number: int) -> dict[str, Any]:
        if isinstance(entry, dict):
            require_columns(list(entry), [self.column], self)
            return entry | {"prompt": entry[self.column]}
        return {"prompt": entry}

    def table(self) -> list[dict[str, Any]]:
        table = open_table(self.path, self.split, self.revision, f"{self.kind}s")
        require_columns(table.column_names, [self.column], self)
        light = table.remove_columns(sorted(heavy_columns(table.features) - {self.column}))
        require_unicode(light)
        records = light.select(range(min(len(table), self.count or len(table)))).to_list()
        return [record | {"prompt": record[self.column]} for record in records]
