"""Which answers of a reference runs may share, and the reference that remembers them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from diffpo.core.objective import Objective
from diffpo.core.references import NOISE, SCORES, Reference
from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.pairs import ImagePairs, PairData
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.train.reference_cache import CachedReference, open_answers


def cache_reference(
    folder: Path,
    inner: Callable[[], Reference],
    objective: Objective,
    base: StableDiffusion,
    data: PairData,
    pairs: ImagePairs,
    latents: Sequence[int],
    seed: int,
    storage: torch.dtype,
    judges: bool = False,
) -> CachedReference:
    """The base's errors on the `data.cycle` draws of each pair, kept in a folder; and, if pictures are inverted by the
    base, the noise of that, which takes as much room as the latents of all pictures in fp32 for each of the draws.

    Runs that differ in loss, beta, guard, weighting, optimizer, length, batch or rank of a LoRA share it; those that
    differ in anything that moves an error are refused.

    Args:
        inner: makes the reference, which is done only if some error is not known yet.
        latents: shape of one picture's.
        storage: type of mixed precision.
        judges: whether held-out pairs are judged, which needs the reference in any case.

    Raises:
        Refusal: if errors of such a run cannot be remembered, or the folder holds those of another one.
        Refusal: if the folder cannot be written.
    """
    if data.cycle is None:
        raise Refusal("reference_cache needs draws that repeat; set data.cycle to their number, e.g. 8.")
    if objective.requires.cacheable_by is None:
        raise Refusal(
            f"What {type(objective).__name__} asks its reference cannot be remembered; set reference_cache to null."
        )
    state = PartialState()
    if state.distributed_type == DistributedType.FSDP:
        raise Refusal(
            "Under FSDP all processes must ask the reference together; set reference_cache to null, or use DDP."
        )
    if NOISE in objective.requires.answers and pairs.shapes is not None:
        raise Refusal("Noise of inverted pictures is remembered in one shape; encode without bucket_step.")
    of_pair = data.cycle, sum(table.ids for table in pairs.tables), len(pairs.tables[0][0].candidates)
    room = {SCORES: of_pair, NOISE: (*of_pair, *latents)}
    asked = identify_answers(objective, base, data, seed, storage)
    with state.main_process_first():
        if state.is_main_process:
            open_answers(folder, asked, {what: room[what] for what in objective.requires.answers})
    known = CachedReference(None, folder)
    state.wait_for_everyone()  # nobody adds before all have looked
    if judges or not known.is_complete(pairs.row_ids):
        known.inner = inner()
    return known


def identify_answers(
    objective: Objective, base: StableDiffusion, data: PairData, seed: int, storage: torch.dtype
) -> dict[str, Any]:
    """What an error of the reference depends on."""
    network = (base.path, base.unet, base.config, base.revision, base.variant, base.adapter and base.adapter.start)
    network += () if base.family is None else (repr(base.family),)
    network += () if base.quantize is None else (base.quantize,)
    network += () if base.quantize_text_encoders is None else (f"texts in {base.quantize_text_encoders}",)
    return {
        "network": str(network),
        "vae": base.vae,
        "scheduler": str(base.scheduler),
        "source": str(data.source),
        "rows": [str(row_map) for row_map in data.rows],
        "framing": str(data.framing),
        "caption_dropout": data.caption_dropout,
        "noising": objective.requires.cacheable_by,
        "seed": seed,
        "precision": str(storage),
    }
