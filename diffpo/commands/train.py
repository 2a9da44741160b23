"""Align a text-to-image diffusion model with image preferences.

accelerate launch scripts/train_diffusion_dpo.py --config configs/diffusion/diffusion_dpo_sd15.yaml --output_dir runs/a
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import diffusers
import transformers
from torch import nn
from torch.optim import Optimizer

from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.data.pairs import require_track
from diffpo.diffusion.data.pairs import PairData, find_unencoded
from diffpo.diffusion.encode.encode import Encoding
from diffpo.diffusion.encode.fingerprint import require_encoded_for
from diffpo.diffusion.evaluation.held_out import HeldOut
from diffpo.diffusion.evaluation.preview import PictureGrid, PreviewConfig
from diffpo.diffusion.model.encoder import require_sides
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.model.model_card import write_card, write_snippet
from diffpo.diffusion.objective.checks import require_prediction, require_users, silent_times
from diffpo.diffusion.objective.reference_cache import cache_reference
from diffpo.evaluation.win_rates import Evaluation
from diffpo.train.align import align, finish, open_pairs
from diffpo.train.publish import Publish
from diffpo.train.run import FitConfig, open_run


def main(
    objective: Objective,
    base: StableDiffusion,
    data: PairData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    output_dir: Path,
    fit: FitConfig,
    reference: Callable[[nn.Module], Reference] | None = None,
    preview: PreviewConfig | None = None,
    validation: HeldOut | None = None,
    evaluation: Evaluation | None = None,
    publish: Publish | None = None,
    seed: int = 0,
    resume: str | None = None,
    encoding: Encoding | None = None,
    reference_cache: Path | None = None,
    settings: str = "",
) -> None:
    """Align a text-to-image diffusion model with image preferences.

    Args:
        objective: what is minimised, e.g. diffpo.diffusion.DenoisingPreference.
        base: the model to tune.
        data: the pairs.
        optimizer: any torch optimiser by class path.
        output_dir: gets checkpoints, previews, config, model card and the tuned weights.
        fit: length, batch, precision, bookkeeping.
        reference: null is the untuned base: adapters switched off, or a frozen copy.
        preview: pictures during the run.
        validation: pairs kept from training and judged during it, with what is drawn of development prompts.
        evaluation: what is measured at the end.
        publish: where on the hub the result goes.
        seed: of every random draw of the run.
        resume: "latest" or a checkpoint folder.
        encoding: encode the pairs before the first step and train on what was encoded; null reads pictures, or pairs
            that scripts/encode_pairs.py has encoded.
        reference_cache: folder of the reference's answers that are computed once, for this run and for others that
            differ in loss, beta or learning rate; needs `data.cycle` and the default reference.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    require_track(objective, "pictures")
    run = open_run(fit, output_dir, seed, resume, settings)
    accelerator, folder = run.accelerator, run.output_dir
    if publish and accelerator.is_main_process:
        publish.check()
    if encoding:
        data = encoding(base, data, seed)
    read = [data, validation.held_out(data)] if validation else [data]
    for some in read:
        require_encoded_for(base, some)
    require_users(base.adapter, data.rows)
    if base.family:
        require_sides(data.framing.shapes, base.family)
    pairs, held_out = open_pairs(objective, data, validation, run)
    fit.steps_on(pairs.size)  # epochs of a stream are refused before anything is loaded
    encodes = find_unencoded(read)
    shown = preview is not None or (validation is not None and validation.drawn is not None)
    model = base.load(accelerator.device, run.storage, seed, encodes, shown, objective.requires.unconditional)
    first, draws = model.first(pairs)
    require_prediction(model.denoiser, first, draws)
    if silent := silent_times(objective, model.denoiser):
        accelerator.print(silent)
    cached = (
        partial(
            cache_reference,
            reference_cache,
            objective=objective,
            base=base,
            data=data,
            pairs=pairs,
            latents=first.latents.shape[2:],
            seed=seed,
            storage=run.storage,
            judges=held_out is not None,
        )
        if reference_cache
        else None
    )
    pictures = PictureGrid(preview, model.pipeline(), folder) if preview else None
    if validation and held_out:
        held_out = validation.with_drawn(held_out, model.pipeline(), accelerator)
    report = align(objective, model, pairs, optimizer, run, reference, cached, pictures, held_out)
    pipeline = type(model.pipeline()).__name__
    card = partial(
        write_card,
        *(folder, base, data, objective, report, settings),
        pipeline=pipeline,
        ema=fit.ema,
        prompts=preview.prompts if preview else (),
        repo=publish.repo if publish and not publish.dry_run else None,
    )
    del model, pictures, held_out
    load = {"base": partial(load_pipeline, base), "tuned": partial(load_tuned, base, folder)}
    snippet = write_snippet(base, pipeline, str(folder))
    finish(run, card, evaluation, lambda: {name: make() for name, make in load.items()}, publish, snippet)
