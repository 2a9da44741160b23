"""Encode pairs once: what VAE and text encoders make of them, in a folder that training reads."""

import hashlib
import json
import shutil
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from tqdm import tqdm

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.layouts import PromptsOnly
from diffpo.data.pairs import PairTable, open_tables
from diffpo.data.row_maps import SUMMARY as SCORES
from diffpo.data.source import Layout
from diffpo.data.typed import list_captions
from diffpo.diffusion.data.encoded import SUMMARY, EncodedPairs, describe_framing, latents_of
from diffpo.diffusion.data.encoding import EncodedFiles, StoredPrompts
from diffpo.diffusion.data.pairs import PairData, TextPrompts
from diffpo.diffusion.data.prompt_states import DTYPES
from diffpo.diffusion.data.readers import PixelReader
from diffpo.diffusion.data.stream import PATIENCE
from diffpo.diffusion.encode.fingerprint import list_encoders
from diffpo.diffusion.encode.latent_shards import EncodedShards
from diffpo.diffusion.encode.prompt_shards import PromptShards
from diffpo.diffusion.model.encoder import Encoder, require_sides
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline
from diffpo.diffusion.model.model_card import list_sources
from diffpo.diffusion.model.pipeline import family_of
from diffpo.processes.stopping import end_in_order
from diffpo.storage import arrow
from diffpo.storage.arrow import Shards
from diffpo.storage.digests import read_json
from diffpo.storage.files import name_failed_writes
from diffpo.storage.job_folder import JobFolder
from diffpo.storage.ledger import REMEDY

UNFINISHED = ".encoding"
Stored = Literal["pairs", "pictures"]
Precision = Literal["float32", "bfloat16", "float16"]
POSTERIORS = {"float32": torch.float32, "bfloat16": torch.float16, "float16": torch.float16}


@dataclass(frozen=True)
class Encoding:
    """Encode the pairs of a run before its first step, and train on what was encoded.

    A folder that another run has filled is used, one that a kill left half filled is completed.

    Args:
        folder: that gets the encoded pairs.
        dtype: type of text states, see `encode_pairs`.
        batch_size: pictures, and prompts, that are encoded at a time.
        encode: `pictures` stores latents alone, and text encoders stay in the run.
    """

    folder: str
    dtype: Precision = "float32"
    batch_size: int = 32
    encode: Stored = "pairs"

    def __call__(self, base: StableDiffusion, data: PairData, seed: int) -> PairData:
        """The same data, read from the folder."""
        encode_pairs(base, data, self.folder, self.dtype, self.batch_size, seed, self.encode)
        return replace(data, source=EncodedPairs(self.folder))


def encode_pairs(
    base: StableDiffusion,
    data: PairData,
    output_dir: Path | str,
    dtype: Precision = "float32",
    batch_size: int = 32,
    seed: int = 0,
    encode: Stored = "pairs",
) -> dict[str, Any]:
    """Encode pictures and prompts of all pairs into a folder that `EncodedPairs` reads.

    Stored are the rows as their source gives them, before `data.rows`, which only say what need not be encoded: the
    rows that they drop, and other prompts than those that they leave. All processes share the work. After a kill, the
    same call goes on where it stopped; once finished, it does nothing.

    Training on a folder of type float32 computes what training on the pictures computes, up to the last bits where the
    VAE's convolutions depend on the size of a batch (1e-6 of the latents on a CPU). The half types halve the folder:
    text states are then those that text encoders of that type give, as in a run in mixed precision, and posteriors are
    rounded to float16 (the VAE computes in float32 in any case), which moves latents by less than 5e-4 of their size.

    Args:
        data: source, row maps, framing and workers are read. With `framing.flip`, each picture is encoded twice.
        dtype: of text states and, if it is float32, of posteriors.
        batch_size: pictures, and prompts, that are encoded at a time.
        seed: of the row maps.
        encode: `pictures` stores latents alone: a run on them loads the text encoders, which it asks for each batch.
            That is for families whose states are large, 4 MiB a prompt for FLUX.1.

    Returns:
        What is in `encoding.json`: what the numbers depend on; `pairs` and `ids` (rows of the source, kept or not),
        `notes` on some of them, `k`, `unreadable` pairs, `prompts`, how many of them were `truncated` to the
        `longest` if they were encoded, `scaling` of the latents, their `shapes`, and `bytes`.

    Raises:
        Refusal: if the base is none that is computed, the source cannot be used or encoded, its pictures cannot be
            read, or the folder holds something else or is too small.
        Refusal: if the folder cannot be written, or is full.
    """
    require_at_least(1, batch_size=batch_size)
    state, folder = PartialState(), JobFolder(Path(output_dir), SUMMARY, UNFINISHED, arrow.ENDING, remade=True)
    require_encodable(data)
    folder.require_ours()
    with state.main_process_first():
        [pairs] = open_tables(data.source, [*data.rows, TextPrompts()], seed)
    prompts, digest = survey_prompts(pairs, silent=not state.is_main_process)
    stores_prompts = encode == "pairs"
    identity = {
        **list_encoders(base, stores_prompts),
        **describe_framing(data.framing),
        "flip": data.framing.flip,
        "dtype": dtype,
        "source": str(data.source),
        "rows": [str(row_map) for row_map in data.rows],
        "seed": seed,
        "pairs": len(pairs),
        "digest": digest,
        **({} if stores_prompts else {"encode": encode}),  # as folders have it that are older than this choice
    }
    if (finished := folder.finished(identity)) is not None:
        return finished
    PixelReader(data.framing, 0.0, seed)((0, pairs[n]) for n in range(min(PATIENCE, len(pairs))))
    device: Any = state.device
    storing = base.storing(DTYPES[dtype], denoises=False)
    parts = load_pipeline(base, stores_prompts or "pictures", denoises=False, storing=storing)
    family = base.family or family_of(parts)
    family.path(parts.scheduler)  # or training on what was encoded would be refused
    require_sides(data.framing.shapes, family)
    encoder = Encoder.of(parts, DTYPES[dtype], family).to(device)
    pair_shards = EncodedShards(
        as_given(pairs), data.framing, encoder, POSTERIORS[dtype], batch_size, data.workers, device
    )
    prompt_shards = PromptShards(prompts, encoder.conditioner, batch_size) if stores_prompts else None
    require_room(folder, pair_shards, prompt_shards)
    state.print(announce_work(pair_shards, prompt_shards, output_dir))
    state.wait_for_everyone()  # nobody writes before all have looked
    folder.begin(identity, state.process_index)
    tables = [table for table in (pair_shards, prompt_shards) if table is not None]
    make_missing(folder, *tables)
    if state.is_main_process:
        folder.gather()
        copied = copy_scores(data.source.layouts[0].folder, folder.path)
        told = {"datasets": list_sources(data.source), "ids": pairs.ids, "notes": dict(pairs.notes)}
        names = [name for table in tables for name in table.files]
        found = summarize_encoding(folder.path, pair_shards, prompt_shards, len(prompts))
        folder.finish({**identity, **told, **found}, [*names, *copied])
    state.wait_for_everyone()
    del encoder, pair_shards, prompt_shards, tables
    clear_device_cache(garbage_collection=True)  # a run that goes on needs the room
    return read_json(folder.path / SUMMARY)


def require_encodable(data: PairData) -> None:
    """Raise a Refusal if what is asked for cannot be stored."""
    if data.framing.random_crop:
        raise Refusal(
            "Random crops differ in each epoch and cannot be stored; set data.framing.random_crop to false, or train "
            "on the pictures."
        )
    if isinstance(data.source, PromptsOnly):
        raise Refusal(f"{data.source.path} is read for prompts alone, whose states are quick to make; train on it.")
    if data.stream is not None:
        raise Refusal("Pairs are encoded from a table; set data.stream to null.")
    if data.is_encoded:
        raise Refusal(f"{data.source} is encoded already; train on it.")
    if not isinstance(data.source, Layout):
        raise Refusal(
            "Sources are encoded one at a time; encode each into a folder of its own, then mix "
            "diffpo.diffusion.EncodedPairs of these folders."
        )


def survey_prompts(pairs: PairTable, silent: bool) -> tuple[list[str], str]:
    """Each prompt once, the empty one first, and a digest that tells data apart that have the same path."""
    prompts, digest = {"": None}, hashlib.sha256()
    for n in tqdm(range(len(pairs)), desc="reading rows", delay=5, disable=silent):
        row = pairs[n]
        prompts |= dict.fromkeys(text for prompt in row.prompts for text in list_captions(prompt))
        digest.update(json.dumps([row.id, row.prompts, row.prob, row.scores, row.weight]).encode())
    return list(prompts), digest.hexdigest()[:16]


def as_given(pairs: PairTable) -> PairTable:
    """The rows that were kept, as their source gives them."""
    plain = copy(pairs)
    plain.maps = []
    return plain


def require_room(folder: JobFolder, pairs: EncodedShards, prompts: PromptShards | None) -> None:
    """Raise a Refusal if what is still missing will not fit on the disk."""
    if prompts is None:
        folder.require_room("Encoded pictures", pairs.bytes)
        return
    others = f", or set encode to pictures ({pairs.bytes / 2**30:.2f} GiB), with the text encoders in the run"
    folder.require_room("Encoded pairs", pairs.bytes + prompts.bytes, others)


def announce_work(pairs: EncodedShards, prompts: PromptShards | None, folder: Path | str) -> str:
    """What is about to be made."""
    pictures = f"{pairs.rows} rows x {pairs.k} pictures x {len(pairs.variants)} variants"
    latents = f"{pairs.bytes / 2**30:.2f} GiB of latents ({pictures})"
    if prompts is None:
        return f"{latents} go to {folder}; prompts are not encoded, the text encoders stay in the run."
    most = "at most " if prompts.is_cut else ""
    return (
        f"{latents} and {most}{prompts.bytes / 2**30:.2f} GiB of text states ({prompts.rows} prompts of {most}"
        f"{prompts.bytes_of_row / 2**20:.2f} MiB) go to {folder}. With encode: pictures the latents alone are stored, "
        "and the text encoders stay in the run."
    )


def make_missing(folder: JobFolder, *tables: Shards) -> None:
    """Make what is missing; the processes take turns, file by file."""
    state = PartialState()
    missing = [table.missing_in(folder) for table in tables]
    state.wait_for_everyone()  # nobody adds before all have seen the same
    with end_in_order() as stop:
        for table, names in zip(tables, missing, strict=True):
            mine = names[state.process_index :: state.num_processes]
            for name in table.write(mine, folder.unfinished, silent=not state.is_main_process):
                folder.keep(*table.made_with(name))
                stop.here()
    state.wait_for_everyone()


def summarize_encoding(folder: Path, pairs: EncodedShards, prompts: PromptShards | None, count: int) -> dict[str, Any]:
    """What `encoding.json` says of the files.

    Args:
        count: of prompts, the empty one among them.
    """
    latents = arrow.open_files(folder, pairs.what, len(pairs.files)).data.column(latents_of(pairs.k, "")[0])
    found: EncodedFiles = {
        "k": pairs.k,
        "unreadable": latents.null_count,
        "prompts": count,
        "latents": str(pairs.dtype).removeprefix("torch."),
        "scaling": pairs.encoder.scaling,
        "shapes": pairs.latent_shapes,
        "files": {table.what: len(table.files) for table in (pairs, prompts) if table is not None},
        "bytes": sum(file.stat().st_size for file in folder.glob(f"*{arrow.ENDING}")),
    }
    return {**found, **({} if prompts is None else summarize_states(folder, prompts))}


def summarize_states(folder: Path, prompts: PromptShards) -> StoredPrompts:
    truncated = arrow.open_files(folder, prompts.what, len(prompts.files)).data.column("truncated")
    return {
        "truncated": sum(truncated.to_pylist()),
        "longest": prompts.conditioner.longest,
        "states": list(prompts.empty["prompt"].shape[1:]),
    }


def copy_scores(source: Path, folder: Path) -> list[str]:
    """What says who scored the pairs goes with them; its name, if there is such a file."""
    if not (source / SCORES).exists():
        return []
    read_json(source / SCORES)
    with name_failed_writes(str(folder / SCORES), REMEDY):
        shutil.copy(source / SCORES, folder)
    return [SCORES]
