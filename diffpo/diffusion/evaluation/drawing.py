"""Pictures of many prompts as files: drawn batch by batch by all processes, continued after a stop."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.sampling import Precision, generate_pictures, move_pipeline
from diffpo.processes.stopping import end_in_order
from diffpo.storage.digests import FILES, digest_of, read_json, written_in, wrong_file
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import REMEDY, Ledger, move_into_place, require_same, write_json

DRAWN, LEDGER = "drawn.json", ".drawn"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; the same for every model.

    Args:
        pictures: per prompt.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        first_seed: of the first picture; the others count up, prompt by prompt.
        batch_size: pictures at a time; part of what decides their last bits.
        side: of the square pictures in pixels; null is what the network was trained on.
        dtype: of UNet and text encoders (the VAE decodes in fp32); null is float16 on an accelerator, else float32.

    Raises:
        Refusal: if a count is not positive.
    """

    pictures: int = 1
    steps: int = 50
    guidance: float = 7.5
    first_seed: int = 0
    batch_size: int = 8
    side: int | None = None
    dtype: Precision | None = None

    def __post_init__(self):
        if min(self.pictures, self.steps, self.batch_size) < 1:
            raise Refusal(f"sampling needs at least one picture, step and picture per batch, got {self}.")


def picture_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.png"


def draw_pictures(
    load: Callable[[], Any],
    prompts: Sequence[str],
    sampling: Sampling,
    folder: Path,
    identity: Mapping[str, Any],
    title: str,
) -> list[Path]:
    """Files of all pictures, prompt by prompt; those that a former call left are kept.

    Whole batches go to the processes in turn, so a picture does not depend on how many there are.

    Args:
        load: gives the pipeline; called only if something is missing.
        identity: what the pictures depend on besides prompts and sampling.

    Raises:
        Refusal: if the folder holds pictures of something else.
        Refusal: if the disk is full.
    """
    state: Any = PartialState()
    same_as_before(folder, {**identity, "prompts": digest_texts(prompts), "sampling": asdict(sampling)})
    asked = [prompt for prompt in prompts for _ in range(sampling.pictures)]
    files = [picture_file(folder, number) for number in range(len(asked))]
    drawn = DrawnFiles(folder)
    state.wait_for_everyone()  # nobody adds before all have seen the same
    batches = [range(n, min(n + sampling.batch_size, len(asked))) for n in range(0, len(asked), sampling.batch_size)]
    mine = batches[state.process_index :: state.num_processes]
    lost = drawn.lost([files[number] for batch in mine for number in batch])
    missing = [batch for batch in mine if not lost.isdisjoint(files[number] for number in batch)]
    if missing:
        pipeline = move_pipeline(load(), state.device, sampling.dtype)
        with end_in_order() as stop, ThreadPoolExecutor(1, "writing") as writer:
            writing_last = writer.submit(save_all, [], drawn)
            for batch in tqdm(missing, desc=title, unit="batch", disable=not state.is_main_process):
                some, seeds = slice(batch.start, batch.stop), [sampling.first_seed + number for number in batch]
                made = generate_pictures(
                    pipeline, asked[some], seeds, sampling.steps, sampling.guidance, len(batch), side=sampling.side
                )
                writing_last.result()
                writing_last = writer.submit(save_all, list(zip(files[some], made, strict=True)), drawn)
                stop.here()
            writing_last.result()
    state.wait_for_everyone()
    if state.is_main_process:
        drawn.finish(files)
    state.wait_for_everyone()
    return files


class DrawnFiles:
    """Which pictures of a folder are what was drawn: `files.json` names them, or, until all are there, a ledger."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._named = written_in(folder) if (folder / FILES).exists() else None
        self._ledger = Ledger(folder / LEDGER, {}, PartialState().process_index)

    @property
    def known(self) -> dict[str, Any]:
        """Sizes and digests, by name of the file."""
        return {**(self._named or {}), **self._ledger.done}

    def lost(self, files: Sequence[Path]) -> set[Path]:
        """Those that are to be drawn: they are not there, or are not what was drawn, which is told."""
        known, there = self.known, {file for file in files if file.exists()}
        if there and not known:
            log.warning(f"The pictures in {self.folder} are taken as they are: nothing there tells what was drawn.")
            return set(files) - there
        wrong = [file for file in files if file.name in known and wrong_file(self.folder, file.name, known[file.name])]
        if wrong:
            log.warning(
                f"{len(wrong)} pictures in {self.folder} are not what was drawn, the first is {wrong[0].name}; they "
                "are drawn again."
            )
        return {file for file in files if file not in there or file.name not in known}.union(wrong)

    def add(self, files: Sequence[Path]) -> None:
        """Pictures that the disk holds."""
        self._ledger.add({file.name: digest_of(file) for file in files})

    def finish(self, files: Sequence[Path]) -> None:
        """All of them are there; one process calls this."""
        known = {**self.known, **Ledger(self._ledger.folder, {}).done}
        others = self._named or {}  # the folder's listing, from a former evaluation
        named = others | {file.name: known.get(file.name) or digest_of(file) for file in files}
        if named != self._named:
            write_json(self.folder / FILES, {"files": named})
        shutil.rmtree(self._ledger.folder)


def draw_or_copy(
    kept: Path, pipeline: Any, prompts: Sequence[str], sampling: Sampling, folder: Path, title: str
) -> list[Path]:
    """What `draw_pictures` makes, in a new folder, or what another run has kept of the same.

    Args:
        kept: gets a folder for each combination of weights, prompts and sampling.
    """
    state: Any = PartialState()
    place = kept / digest_texts([weights_of(pipeline), *prompts, json.dumps(asdict(sampling)), str(state.device)])
    if state.is_main_process and place.exists():
        shutil.copytree(place, folder)
    state.wait_for_everyone()
    files = draw_pictures(lambda: pipeline, prompts, sampling, folder, {}, title)
    if state.is_main_process and not place.exists():
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        with name_failed_writes(str(place), REMEDY):
            shutil.copytree(folder, unfinished)
            try:
                unfinished.rename(place)
            except OSError:  # another run was faster
                shutil.rmtree(unfinished)
    return files


def weights_of(pipeline: Any) -> str:
    """A digest of all weights of a pipeline."""
    found = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, torch.nn.Module):
            found.update(name.encode())
            for tensor in part.state_dict().values():
                found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def save_all(pictures: Sequence[tuple[Path, Image.Image]], drawn: DrawnFiles) -> None:
    """Write pictures, each under another name until the disk holds it whole."""
    with name_failed_writes("A picture", REMEDY):
        for file, picture in pictures:
            unfinished = file.with_suffix(".unfinished")
            picture.save(unfinished, "PNG")
            move_into_place(unfinished, file)
        drawn.add([file for file, _ in pictures])


def same_as_before(folder: Path, identity: Mapping[str, Any]) -> None:
    """Remember what a folder's pictures are of, and raise a Refusal if it was something else, or nothing tells."""
    if (folder / DRAWN).exists():
        require_same(read_json(folder / DRAWN), identity, folder)
    elif picture_file(folder, 0).exists():
        raise Refusal(f"{folder} lacks {DRAWN}, so nothing tells what its pictures are of; remove or move it.")
    else:
        write_json(folder / DRAWN, identity, f".{PartialState().process_index}")


def digest_texts(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
