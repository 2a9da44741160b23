"""Reference log-likelihoods of texts are numbers: computed once, they are exact in every epoch and in other runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import SCORES, Reference
from diffpo.core.refusal import Refusal
from diffpo.text.data.pairs import TextData, TextPairs
from diffpo.text.model.loading import CausalLM
from diffpo.train.reference_cache import CachedReference, open_answers


class TextCachedReference(CachedReference):
    """Answers that no draw moves, so that those of one epoch are those of all."""

    def at(self, draws: Draws | None) -> None:
        super().at(None if draws is None else replace(draws, epoch=(0,) * len(draws.row)))


def cache_text_reference(
    folder: Path,
    inner: Callable[[], Reference],
    objective: Objective,
    base: CausalLM,
    data: TextData,
    pairs: TextPairs,
    seed: int,
    storage: torch.dtype,
    judges: bool = False,
) -> CachedReference:
    """The base's log-likelihoods of each candidate, kept in a folder.

    Runs that differ in loss, beta, optimizer, length, batch or rank of a LoRA share it; those that differ in anything
    that moves a log-likelihood are refused. Numbers depend on the batch a row stood in by rounding alone.

    Args:
        inner: makes the reference, which is done only if some log-likelihood is not known yet.
        storage: type of mixed precision.
        judges: whether held-out pairs are judged, which needs the reference in any case.

    Raises:
        Refusal: if what the objective asks cannot be remembered, or the folder holds the answers of another run.
        Refusal: if the folder cannot be written.
    """
    if objective.requires.cacheable_by is None or set(objective.requires.answers) != {SCORES}:
        raise Refusal(
            f"What {type(objective).__name__} asks its reference is not one number each; set reference_cache to null."
        )
    state = PartialState()
    if state.distributed_type == DistributedType.FSDP:
        raise Refusal(
            "Under FSDP all processes must ask the reference together; set reference_cache to null, or use DDP."
        )
    shape = 1, sum(table.ids for table in pairs.tables), pairs.first(1).ids.shape[0]
    with state.main_process_first():
        if state.is_main_process:
            open_answers(folder, identify_likelihoods(objective, base, data, seed, storage), {SCORES: shape})
    known = TextCachedReference(None, folder)
    state.wait_for_everyone()  # nobody adds before all have looked
    if judges or not known.is_complete(pairs.row_ids):
        known.inner = inner()
    return known


def identify_likelihoods(
    objective: Objective, base: CausalLM, data: TextData, seed: int, storage: torch.dtype
) -> dict[str, Any]:
    """What a log-likelihood under the reference depends on."""
    network = base.path, base.revision, base.adapter and base.adapter.start, base.quantization
    return {
        "network": str(network),
        "chat_template": base.chat_template,
        "source": str(data.source),
        "rows": [str(row_map) for row_map in data.rows],
        "cut": [data.max_length, data.max_prompt_length],
        "tools": data.tools,
        "asked": objective.requires.cacheable_by,
        "seed": seed,
        "precision": str(storage),
    }
