"""Align a language model with preferences over texts.

accelerate launch scripts/train_text_dpo.py --config configs/text/dpo_lora.yaml --output_dir runs/a
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import transformers
from jsonargparse import set_parsing_settings
from torch import nn
from torch.optim import Optimizer

from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.data.pairs import require_track
from diffpo.evaluation.win_rates import Evaluation
from diffpo.text.data.pairs import HeldOutTexts, TextData, read_ordinary
from diffpo.text.evaluation.capability import CapabilityLoss
from diffpo.text.evaluation.shift import DistributionShift
from diffpo.text.model.loading import CausalLM, load_base, load_tuned
from diffpo.text.model.model_card import write_card, write_text_snippet
from diffpo.text.objective.reference_cache import cache_text_reference
from diffpo.train.align import align, finish, open_pairs
from diffpo.train.run import FitConfig, open_run

set_parsing_settings(subclasses_enabled=[CausalLM])  # a base may be of another kind, e.g. VisionLM


def main(
    objective: Objective,
    base: CausalLM,
    data: TextData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    output_dir: Path,
    fit: FitConfig,
    reference: Callable[[nn.Module], Reference] | None = None,
    validation: HeldOutTexts | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    resume: str | None = None,
    reference_cache: Path | None = None,
    settings: str = "",
) -> None:
    """Align a language model with preferences over texts.

    Args:
        objective: what is minimised, e.g. diffpo.text.SequencePreference.
        base: the model to tune.
        data: the pairs.
        optimizer: any torch optimiser by class path.
        output_dir: gets checkpoints, config, model card and the tuned weights with their tokenizer.
        fit: length, batch, precision, bookkeeping.
        reference: null is the untuned base: adapters switched off, or a frozen copy.
        validation: pairs kept from training and judged during it.
        evaluation: what is measured at the end; it is given {"base": ..., "tuned": ...} as
            diffpo.text.LoadedCausalLM, on the CPU.
        seed: of every random draw of the run.
        resume: "latest" or a checkpoint folder.
        reference_cache: folder of the reference's log-likelihoods, which are computed once, for this run and for
            others that differ in loss, beta or learning rate; needs the default reference.
        settings: the resolved config.
    """
    transformers.utils.logging.disable_progress_bar()
    require_track(objective, "texts")
    run = open_run(fit, output_dir, seed, resume, settings)
    pairs, held_out = open_pairs(objective, data, validation, run, base.tokenizing())
    ordinary, fresh = read_ordinary(validation), validation.fresh if validation else None
    shift = DistributionShift.of(held_out.pairs, fresh) if held_out and fresh else None
    first = pairs.first(4)
    model = base.load(run.accelerator.device, run.storage, seed)
    model.require_fits(first, data.max_length)
    if held_out and ordinary:
        together = fit.per_device_batch_size
        capability = CapabilityLoss.of(model, ordinary, data.max_length, together, run.autocast())
        run.accelerator.print(capability.report())
        held_out = replace(held_out, beside=(capability,))
    if held_out and shift:
        run.accelerator.print(f"The shift is measured on {shift.report()}.")
        if reference is not None or not objective.requires.reference:
            shift = replace(shift, base=model.reference())
        held_out = replace(held_out, beside=(*held_out.beside, shift))
    cached = (
        partial(
            cache_text_reference,
            reference_cache,
            objective=objective,
            base=base,
            data=data,
            pairs=pairs,
            seed=seed,
            storage=run.storage,
            judges=held_out is not None,
        )
        if reference_cache
        else None
    )
    report = align(objective, model, pairs, optimizer, run, reference, cached, held_out=held_out)
    del model
    card = partial(write_card, run.output_dir, base, data, objective, report, settings, ema=fit.ema)
    finish(
        run,
        card,
        evaluation,
        lambda: {"base": load_base(base), "tuned": load_tuned(base, run.output_dir)},
        loading=write_text_snippet(base, str(run.output_dir)),
    )
