"""Align a language model with preferences over texts.

accelerate launch scripts/train_text_dpo.py --config configs/text/dpo_lora.yaml --output_dir runs/a
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from jsonargparse import set_parsing_settings
from torch import nn
from torch.optim import Optimizer

from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.data.pairs import require_suits, require_track
from diffpo.evaluation.win_rates import Evaluation
from diffpo.storage.files import sparing
from diffpo.text.data.pairs import HeldOutTexts, TextData
from diffpo.text.model.loading import CausalLM, load_base, load_tuned
from diffpo.text.model.model_card import write_card
from diffpo.text.objective.reference_cache import remembered
from diffpo.train import fit as loop
from diffpo.train.reference_cache import require_still
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
    remember: Path | None = None,
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
        remember: folder of the reference's log-likelihoods, which are computed once, for this run and for others that
            differ in loss, beta or learning rate; needs the default reference.
        settings: the resolved config.
    """
    transformers.utils.logging.disable_progress_bar()
    require_track(objective, "texts")
    run = open_run(fit, output_dir, seed, resume, settings)
    accelerator, folder = run.accelerator, run.output_dir
    tokenizing = base.tokenizing()
    pairs: Any
    with accelerator.main_process_first():
        opening = seed, tokenizing
        pairs, held_out = validation.split(data, *opening) if validation else (data.open(*opening), None)
    for some in [pairs, *([held_out.pairs] if held_out else [])]:
        require_suits(objective, some)
    first = pairs.first(4)
    model = base.load(accelerator.device, run.storage, seed)
    model.require_fits(first, data.max_length)
    make = partial(reference, model.network) if reference else model.reference
    if remember:
        require_still(reference)
        make = partial(
            remembered, remember, make, objective, base, data, pairs, seed, run.storage, judges=held_out is not None
        )
    frozen = make() if objective.needs_reference else None
    objective.attach(model.network, seed)
    loop.fit(objective, model.network, frozen, pairs, model.prepare, optimizer, run, validation=held_out)
    report = f"{pairs.report()} {model.report()}".strip()
    accelerator.print(report)
    model.save(folder, writes=accelerator.is_main_process)
    card = partial(write_card, folder, base, data, objective, report, settings, ema=fit.ema, command=sys.argv)
    if accelerator.is_main_process:
        with sparing(f"The model card of {folder}"):
            card()
    if evaluation:
        accelerator.wait_for_everyone()  # until what was trained is written
        del frozen, model
        accelerator.free_memory()  # of the optimizer: two more networks are coming
        evaluation({"base": load_base(base), "tuned": load_tuned(base, folder)}, folder, seed)
        if accelerator.is_main_process:
            with sparing(f"The model card of {folder}"):
                card()  # now with what was measured
    accelerator.end_training()
