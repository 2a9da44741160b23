"""Align a text-to-image diffusion model with image preferences.

accelerate launch scripts/train_diffusion_dpo.py --config configs/diffusion/diffusion_dpo_sd15.yaml --output_dir runs/a
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import diffusers
import transformers
from torch import nn
from torch.optim import Optimizer

from diffpo import fit as loop
from diffpo.cli import launch
from diffpo.core import Objective
from diffpo.diffusion.card import write_card
from diffpo.diffusion.checks import require_prediction
from diffpo.diffusion.data import PairData
from diffpo.diffusion.loading import StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.preview import PictureGrid, PreviewConfig
from diffpo.evaluation import Evaluation
from diffpo.references import Reference
from diffpo.run import FitConfig, open_run


def main(
    objective: Objective,
    base: StableDiffusion,
    data: PairData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    output_dir: Path,
    fit: FitConfig,
    reference: Callable[[nn.Module], Reference] | None = None,
    preview: PreviewConfig | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    resume: str | None = None,
    settings: str = "",
) -> None:
    """Align a text-to-image diffusion model with image preferences.

    Args:
        objective: what is minimised, e.g. diffpo.diffusion.objective.DenoisingPreference.
        base: the model to tune.
        data: the pairs.
        optimizer: any torch optimiser by class path.
        output_dir: gets checkpoints, previews, config, model card and the tuned weights.
        fit: length, batch, precision, bookkeeping.
        reference: null is the untuned base: adapters switched off, or a frozen copy.
        preview: pictures during the run.
        evaluation: what is measured at the end.
        seed: of every random draw of the run.
        resume: "latest" or a checkpoint folder.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    run = open_run(fit, output_dir, seed, resume, settings)
    accelerator = run.accelerator
    with accelerator.main_process_first():
        pairs = data.open(seed)
    model = base.load(accelerator.device, storage=run.storage)
    require_prediction(model.denoiser, *model.first(pairs))
    frozen = (reference(model.unet) if reference else model.reference()) if objective.needs_reference else None
    pictures = PictureGrid(preview, model.pipeline(), run.output_dir) if preview else None
    loop.fit(objective, model.unet, frozen, pairs, model.prepare, optimizer, run, pictures)
    report = f"{pairs.report()} {model.report()}"
    if accelerator.is_main_process:
        model.save(run.output_dir)
        write_card(run.output_dir, base, data, fit.ema, report, settings)
    accelerator.print(report)
    if evaluation and accelerator.is_main_process:
        evaluation({"base": load_pipeline(base), "tuned": load_tuned(base, run.output_dir)}, run.output_dir, seed)
    accelerator.end_training()


if __name__ == "__main__":
    launch(main)
