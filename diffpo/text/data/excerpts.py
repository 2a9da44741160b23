"""The first pairs as text again, with what of them is scored marked."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from diffpo.text.data.batches import TokenBatch

OPEN, CLOSE = "[[", "]]"


def tell_pairs(batch: TokenBatch, tokenizer: Any) -> Iterator[str]:
    """A line for each candidate of each row, the best one first; what counts stands in [[...]], a pair of brackets
    for each part."""
    k = len(batch.ids)
    for b, row in enumerate(batch.row):
        label = batch.label
        yield f"row {row}, P(first is best) {label.prob[b].item():.3g}, weight {label.weight[b].item():.3g}"
        for side in range(k):
            yield f"  {side + 1}. {mark(batch, side, b, tokenizer)}"


def mark(batch: TokenBatch, side: int, pair: int, tokenizer: Any) -> str:
    """One candidate, with line ends written as \\n."""
    here = side, pair
    length = int(batch.attended[here].sum())
    tokens = list(zip(*(x[here][:length].tolist() for x in (batch.ids, batch.scored, batch.part)), strict=True))
    text = ""
    for (scored, _), run in groupby(tokens, key=lambda token: (token[1], token[1] and token[2])):
        piece = tokenizer.decode([token[0] for token in run])
        text += f"{OPEN}{piece}{CLOSE}" if scored else piece
    return text.replace("\n", "\\n")
