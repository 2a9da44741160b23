"""Some of the candidates of a batch, for objectives whose rows hold more than two."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from diffpo.text.data.batches import TokenBatch


def take_candidates(batch: TokenBatch, which: Int[Tensor, "m b"]) -> TokenBatch:
    """For each row the candidates with these numbers, without padding that none of them needs."""
    rows = torch.arange(batch.ids.shape[1], device=which.device)
    size = int(batch.attended[which, rows].sum(-1).max())

    def tokens(x: Tensor) -> Tensor:
        return x[which, rows, :size]

    return replace(
        batch,
        ids=tokens(batch.ids),
        attended=tokens(batch.attended),
        scored=tokens(batch.scored),
        part=tokens(batch.part),
        label=replace(batch.label, score=batch.label.score[which, rows]),
        inputs={name: x[which, rows].flatten(0, 1) for name, x in batch.inputs_by_candidate().items()},
    )


def take_between(batch: TokenBatch, begin: int, end: int) -> TokenBatch:
    """Of every row the candidates from `begin` to before `end`."""
    numbers = torch.arange(begin, end, device=batch.ids.device)
    return take_candidates(batch, numbers[:, None].expand(-1, batch.ids.shape[1]))
