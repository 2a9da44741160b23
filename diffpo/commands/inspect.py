"""What a training on pictures will do and need, and its first pairs, without a step of it.

diffpo inspect --config configs/quickstart.yaml
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import Reference, SwitchedOff
from diffpo.data.pairs import require_suits, require_track
from diffpo.data.typed import list_captions
from diffpo.diffusion.data.contact_sheet import draw_sheet, find_mirrored, read_pictures, tell_pairs
from diffpo.diffusion.data.pairs import PairData, find_unencoded
from diffpo.diffusion.encode.encode import Encoding
from diffpo.diffusion.encode.fingerprint import require_encoded_for
from diffpo.diffusion.evaluation.held_out import HeldOut
from diffpo.diffusion.evaluation.preview import PreviewConfig
from diffpo.diffusion.model.loading import LoadedStableDiffusion, StableDiffusion
from diffpo.diffusion.objective.checks import require_prediction, require_users, silent_times
from diffpo.evaluation.win_rates import Evaluation
from diffpo.lab.benchmark.cost.counted import UNCOUNTABLE, count_peak
from diffpo.processes.launchers import autocast_type
from diffpo.storage.files import name_failed_writes
from diffpo.train.metrics import require_trackers
from diffpo.train.publish import Publish
from diffpo.train.report.forecast import is_far, tell_length, tell_needs, tell_trained, warn
from diffpo.train.run import FitConfig
from diffpo.train.validation import keeps_best


def main(
    objective: Objective,
    base: StableDiffusion,
    data: PairData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    fit: FitConfig,
    output_dir: Path = Path("runs/inspected"),
    reference: Callable[[nn.Module], Reference] | None = None,
    preview: PreviewConfig | None = None,
    validation: HeldOut | None = None,
    evaluation: Evaluation | None = None,
    publish: Publish | None = None,
    seed: int = 0,
    resume: str | None = None,
    encoding: Encoding | None = None,
    reference_cache: Path | None = None,
    sheet: Path | None = None,
    pairs: int = 8,
    settings: str = "",
) -> None:
    """Say what a training on pictures will do and need, and show its first pairs; nothing is trained.

    It takes the options of `train`, so that a config is looked at as it is; what comes after the training is ignored.

    Args:
        objective: what would be minimised.
        base: the model that would be tuned.
        data: the pairs.
        optimizer: ignored.
        fit: length, batch, precision, bookkeeping.
        output_dir: of the training; nothing is written there, its disk has to have room.
        reference: read only for what is kept of it.
        preview: ignored.
        validation: pairs kept from training.
        evaluation: ignored.
        publish: ignored.
        seed: of every random draw of the run.
        resume: ignored.
        encoding: the training would encode first; here the pictures themselves are read.
        reference_cache: ignored.
        sheet: picture that the first pairs are drawn on; null is the name of output_dir with -first-pairs.png.
        pairs: drawn there.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    require_track(objective, "pictures")
    require_trackers(fit.report_to)
    accelerator = Accelerator(mixed_precision=fit.mixed_precision)
    if encoding and data.framing.bucket_step:
        data = replace(data, framing=replace(data.framing, bucket_step=None))
    read = [data, validation.held_out(data)] if validation else [data]
    for some in read:
        require_encoded_for(base, some)
    require_users(base.adapter, data.rows)
    opened: Any
    held_out: Any
    opened, held_out = validation.split(data, seed) if validation else (data.open(seed), None)
    for some in [opened, *([held_out.pairs] if held_out else [])]:
        require_suits(objective, some)
    length, storage = tell_length(fit, opened.size, accelerator), autocast_type(accelerator)
    encodes = find_unencoded(read)
    model = base.load(accelerator.device, storage, seed, encodes, True, objective.requires.unconditional)
    objective.attach(model.unet, seed)
    raw = opened.first(pairs)
    first, draws = model.first(opened)
    require_prediction(model.denoiser, first, draws)
    place = sheet or output_dir.with_name(f"{output_dir.name}-first-pairs.png")
    with name_failed_writes(f"The sheet {place}"):
        place.parent.mkdir(parents=True, exist_ok=True)
        said = list(tell_pairs(raw, find_mirrored(raw, opened.reader)))
        decode = lambda latents: model.family.decoded(model.parts, latents.to(model.parts.vae.device))  # noqa: E731
        draw_sheet(raw, read_pictures(raw, decode), said).save(place)
    encoders = [] if model.encoder is None else model.encoder.modules
    if model.encoder and encodes == "prompts":
        encoders = model.encoder.conditioner.encoders  # the VAE stays on the CPU
    copied = storage.itemsize if objective.requires.reference and base.adapter is None and reference is None else 0
    step = count_step(objective, model, opened, fit)
    print(tell_trained(objective, base.unet or base.path, base.adapter, model.unet, fit), length, sep="\n")
    print(f"pairs       {opened.report()}{' ' + tell_cut(model, opened) if encodes else ''}")
    if held_out:
        print(f"held out    {held_out.pairs.report()}")
    print(tell_needs(model.unet, encoders, copied, fit, output_dir, step, keeps_best(validation)))
    print(f"first pairs {place}")
    told = [silent_times(objective, model.denoiser), tell_encoding(encoding), tell_resolution(model, data)]
    for warning in chain(filter(None, told), warn(accelerator.device, storage, data.workers)):
        print(f"warning: {warning}")


def count_step(objective: Objective, model: LoadedStableDiffusion, pairs: Any, fit: FitConfig) -> int | None:
    """Bytes of activations and gradients of one micro-batch, counted without taking them; None if they cannot be."""
    if model.config.compile:
        return None
    one, _ = model.first(pairs, 1)
    many = fit.per_device_batch_size
    batch = replace(one.repeated(many), empty=model.empty)
    draws = Draws(pairs.seed, (0,) * many, batch.row, model.denoiser.a.device)
    # The untuned network is its own reference here: a copy would be computed in the same way.
    reference = SwitchedOff(model.unet, lambda network: nullcontext()) if objective.requires.reference else None

    def work() -> None:
        with torch.autocast(draws.device.type, model.storage, enabled=model.storage != torch.float32):
            loss = objective(model.denoiser, reference, batch, draws).loss
        loss.backward()

    try:
        return count_peak(work)
    except UNCOUNTABLE:
        return None
    finally:
        model.unet.zero_grad()


def tell_cut(model: LoadedStableDiffusion, pairs: Any) -> str:
    """How many prompts, of rows from all over the data, are longer than the text encoders read."""
    assert model.encoder is not None
    prompts = [
        text for row in pairs.sample() for prompt in dict.fromkeys(row.prompts) for text in list_captions(prompt)
    ]
    conditioner = model.encoder.conditioner
    cut = sum(conditioner.cut(prompts)) if prompts else 0
    return f"{cut} of {len(prompts)} prompts looked at are longer than {conditioner.longest} tokens and will be cut."


def tell_encoding(encoding: Encoding | None) -> str:
    if encoding is None:
        return ""
    return f"training would encode the pairs into {encoding.folder} first; here they were read as pictures."


def tell_resolution(model: LoadedStableDiffusion, data: PairData) -> str:
    """A sentence if pictures are far from the size that the base was trained on; empty if they are not."""
    size, side = model.unet.config.sample_size, data.framing.resolution
    native = (min(size) if isinstance(size, list | tuple) else size) * model.parts.vae_scale_factor
    if not is_far(side, native):
        return ""
    return (
        f"data.framing.resolution {side} is far from the {native} that the base draws at; pictures fall apart that a "
        "base is not used to. Choose a base for that size, or set it nearer."
    )
