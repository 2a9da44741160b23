"""How far answers have drifted from their prompts: cosine distances of text embeddings, as columns of the pairs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.layouts import Columns
from diffpo.processes.devices import device_of
from diffpo.storage.files import name_failed_writes
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.storage.ledger import write_json
from diffpo.storage.whole import load_whole
from diffpo.text.data.completions import join_spoken
from diffpo.text.data.rows import read_cell
from diffpo.text.data.tokenizing import require_vocabulary

COLUMNS = ("sem_distance", "sem_distance_rejected")
SUMMARY = "semantic.json"
POOLER = ("pooler.dense.weight", "pooler.dense.bias")  # of BERT's first token, which a mean of states does not need


@dataclass(frozen=True, eq=False)
class TextEncoder(ABC):
    """A frozen network that gives a text one vector.

    Args:
        path: hub id or folder.
        revision: of a hub id.
        device: on which it computes, in fp32.
    """

    path: str
    revision: str | None = None
    device: str = "cpu"

    @abstractmethod
    def load(self) -> nn.Module:
        """The network from its files, all of its weights."""

    @abstractmethod
    def pooled(self, output: Any, attended: Float[Tensor, "n s 1"]) -> Float[Tensor, "n d"]: ...

    @cached_property
    def network(self) -> nn.Module:
        return self.load().to(device_of(self.device)).eval()

    @cached_property
    def tokenizer(self) -> Any:
        with name_failed_loads(self.path, "a tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.revision, **SAFE)
        require_vocabulary(tokenizer)
        return tokenizer

    @property
    def longest(self) -> int:
        """Tokens that are read; the rest of a text is not."""
        config: Any = self.network.config
        return min(self.tokenizer.model_max_length, config.max_position_embeddings)

    def cut(self, texts: list[str]) -> int:
        """How many of the texts are longer than what is read."""
        return sum(len(ids) > self.longest for ids in self.tokenizer(texts, verbose=False)["input_ids"])

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Float[Tensor, "n d"]:
        """Embeddings of length 1."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        tokens = tokens.to(self.device)
        output = self.network(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return nn.functional.normalize(self.pooled(output, tokens.attention_mask[..., None].float()).float(), dim=-1)


@dataclass(frozen=True, eq=False)
class CLIPText(TextEncoder):
    """The text half of a CLIP (arXiv:2103.00020); it reads 77 tokens, so it suits prompts of pictures."""

    path: str = "openai/clip-vit-large-patch14"

    def load(self) -> nn.Module:
        load = partial(CLIPTextModelWithProjection.from_pretrained, self.path, revision=self.revision or "main")
        return load_whole(load, self.path, "the text half of a CLIP", others=True)

    def pooled(self, output: Any, attended: Float[Tensor, "n s 1"]) -> Float[Tensor, "n d"]:
        return output.text_embeds


@dataclass(frozen=True, eq=False)
class SentenceEncoder(TextEncoder):
    """An encoder whose states are averaged over tokens, as those of arXiv:1908.10084."""

    path: str = "sentence-transformers/all-MiniLM-L6-v2"

    def load(self) -> nn.Module:
        load = partial(AutoModel.from_pretrained, self.path, revision=self.revision, **SAFE)
        return load_whole(load, self.path, "a text encoder", spare=POOLER, others=True)

    def pooled(self, output: Any, attended: Float[Tensor, "n s 1"]) -> Float[Tensor, "n d"]:
        return (output.last_hidden_state * attended).sum(1) / attended.sum(1)


def measure_distances(encoder: TextEncoder, prompts: Sequence[Any], sides: Sequence[Any]) -> Float[Tensor, " n"]:
    """1 - cosine of prompt and answer, in [0, 2]; texts or lists of messages."""
    one, two = (encoder([join_spoken(text) for text in texts]) for texts in (prompts, sides))
    return (1 - (one * two).sum(-1)).clamp(0, 2).cpu()


def require_cell(column: str, found: Any, row: int) -> Any:
    """What a cell holds, which has to be there."""
    if found is None:
        raise Refusal(f"Row {row} has null in {column}, which has no distance; fix or leave out such rows.")
    return read_cell(f"text in {column}", found, row)


def add_distances(encoder: TextEncoder, source: Columns, output_dir: Path, batch_size: int = 64) -> dict[str, Any]:
    """Write the pairs with `sem_distance` (of the chosen side) and `sem_distance_rejected` as one parquet file.

    Returns:
        What is in `semantic.json`: the encoder, and mean, least and greatest distance of each column; `cut` prompts
        and answers were longer than the encoder reads.

    Raises:
        Refusal: if a cell is neither a text nor messages, or null; the row is named.
        Refusal: if the source or the encoder cannot be loaded, or the folder is not empty.
        Refusal: if the disk is full.
    """
    require_at_least(1, batch_size=batch_size)
    if output_dir.exists() and any(output_dir.iterdir()):
        raise Refusal(f"output_dir {output_dir} is not empty; choose another one.")
    table, cut = source.open(), 0

    def measured(rows: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[float]]:
        nonlocal cut
        names = {*source.needs, *source.candidates}
        texts = {name: [require_cell(name, x, i) for x, i in zip(rows[name], indices, strict=True)] for name in names}
        cut += sum(encoder.cut([join_spoken(text) for text in texts[name]]) for name in names)
        sides = zip(COLUMNS, source.needs, source.candidates, strict=True)
        return {name: measure_distances(encoder, texts[asked], texts[side]).tolist() for name, asked, side in sides}

    found = table.map(measured, batched=True, with_indices=True, batch_size=batch_size, load_from_cache_file=False)
    spread = {name: torch.tensor(found[name][:]) for name in COLUMNS}
    about = {"encoder": type(encoder).__name__, "model_id": encoder.path, "revision": encoder.revision}
    about |= {"source": str(source), "pairs": len(found), "cut": cut}
    about |= {
        name: {"mean": float(x.mean()), "min": float(x.min()), "max": float(x.max())} for name, x in spread.items()
    }
    with name_failed_writes(str(output_dir)):
        output_dir.mkdir(parents=True, exist_ok=True)
        found.to_parquet(output_dir / "train.parquet")
    write_json(output_dir / SUMMARY, about)
    return about
