"""The training loop. It knows optimisers and checkpoints, and nothing about pairs, images or text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded, reshard, whole
from diffpo.data.pairs import Pairs
from diffpo.data.sampler import Share
from diffpo.processes.stopping import orderly
from diffpo.storage.files import in_one_line
from diffpo.storage.whole import require_finite
from diffpo.train.ema import Average
from diffpo.train.progress import Progress
from diffpo.train.run import Run, count_copies, require_disk
from diffpo.train.state.checkpoint import Checkpoints
from diffpo.train.state.training_state import TrainingState
from diffpo.train.validation import Validation

Prepare = Callable[[nn.Module, Any, Draws], tuple[Any, Any]]


class Preview(ABC):
    """Something to look at while a run goes on."""

    every: int

    @abstractmethod
    def __call__(self, step: int, accelerator: Accelerator) -> None:
        """Draw with the policy as it is now.

        The main process calls this, and if the policy is sharded all others do too, to help without writing anything.
        """


def fit(
    objective: Objective,
    policy: nn.Module,
    reference: Reference | None,
    pairs: Pairs,
    prepare: Prepare,
    optimizer: Callable[[Any], Optimizer],
    run: Run,
    preview: Preview | None = None,
    validation: Validation | None = None,
) -> None:
    """Minimise `objective` for the steps that `run.config` asks for; the policy ends as what is to be exported.

    Killed at any moment and resumed, a run ends with the same bits (on a CPU) as one that was not. A signal (see
    `diffpo.processes.stopping`) costs less: of one process, the run ends after the micro-batch in hand, drops the step
    that this one belongs to, and saves the last whole one; of several, after the step that all of them have heard of
    it in.

    Args:
        policy: its trainable parameters are trained, and end as their moving average if `config.ema` is set.
        reference: None if the objective needs none.
        prepare: turns (policy as wrapped for training, collated batch, draws) into what the objective calls policy
            and batch, e.g. `StableDiffusion.prepare`.
        optimizer: called with the trainable parameters, or with the groups of them that the objective makes.
        preview: something to look at, drawn at step 0 and then every `preview.every` steps.
        validation: held-out pairs that are judged with the weights that would be exported.

    Raises:
        Refusal: if weights are not finite before the first step, or the optimizer does not take its settings.
        Refusal: if loss or gradient stops being finite; no checkpoint is written from then on.
        Refusal: if a checkpoint cannot be written; of the last one that is only told.
        Refusal: if `run.resume` names a checkpoint of another run, or one beyond the last step, or if epochs are
            asked of a stream.
        Stopped: if a signal has come.
    """
    config, accelerator = run.config, run.accelerator
    steps = config.steps_on(pairs.size)
    require_finite(policy.named_parameters(), "Before the first step the base, or its adapter,", "weights")
    stepper = made(optimizer, objective.trained(policy))
    schedule: Any = get_scheduler(config.schedule, stepper, num_warmup_steps=config.warmup, num_training_steps=steps)
    model, stepper = accelerator.prepare(policy, stepper)
    parameters = [p for p in policy.parameters() if p.requires_grad]  # sharding has replaced them
    ema = Average(parameters, decay=config.ema) if config.ema is not None else None
    moving = {"schedule": schedule, "average": ema, "reference": reference}
    others = {name: part for name, part in moving.items() if part is not None}
    state = TrainingState(accelerator, policy, model, stepper, others)
    result = sum(p.numel() * p.element_size() for p in parameters)
    require_disk(run.output_dir, count_copies(config) * result, config.keep, result, run.checkpoints.bytes)
    known = pairs.fingerprint() if accelerator.is_main_process and (run.resume or config.save_every) else None
    checkpoints = replace(run.checkpoints, data=known, state=state)
    step = checkpoints.resume(run.resume) if run.resume else 0
    if step > steps:
        raise Refusal(f"checkpoint-{step:06d} lies beyond the {steps} steps of fit; raise them, or resume earlier.")
    run.begin()
    if ema:
        ema.to(accelerator.device)
    describe(run, steps, pairs.size, parameters, schedule.base_lrs[0])

    accumulate, place = accelerator.gradient_accumulation_steps, (accelerator.process_index, accelerator.num_processes)
    share = Share(config.per_device_batch_size, run.seed, *place, first=step * accumulate)
    bar = tqdm(total=steps, initial=step, disable=not accelerator.is_main_process, desc="fit", mininterval=1)
    show(preview, step, run, ema, policy)
    progress, alone = Progress(run, bar, step), accelerator.num_processes == 1
    with orderly("Saved steps are kept.") as stop, bar:  # which is closed on an error too: that gets its own line
        for n, raw in enumerate(islice(pairs.batches(share), (steps - step) * accumulate), start=1):
            draws = Draws(run.seed, raw.epoch, raw.row, accelerator.device)
            with accelerator.accumulate(model):
                if reference is not None:
                    reference.at(draws)
                trained, batch = prepare(model, raw, draws)
                with run.autocast():
                    result = objective.after(step)(trained, reference, batch, draws)
                accelerator.backward(result.loss)
                progress.meter.add(result.metrics)
                progress.meter.add_number("loss", result.loss)
                if accelerator.sync_gradients:
                    norm: Any = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                stepper.step()
                stepper.zero_grad()
            if n % accumulate:
                if alone and stop.number:
                    break
                continue
            step += 1
            if not accelerator.optimizer_step_was_skipped:  # fp16 skips a step whose scaled gradients overflow
                progress.meter.add_number("grad_norm", whole(torch.as_tensor(norm, device=accelerator.device)))
                schedule.step()
                if ema:
                    ema.step(parameters)
                if reference is not None:
                    reference.after_step(policy)
            progress.meter.keep()
            ending = stop.everywhere(accelerator)
            saving = bool(config.save_every) and (step % config.save_every == 0 or step == steps)
            if saving or step % config.log_every == 0 or step == steps:
                progress.read(step, schedule.get_last_lr()[0], is_last=step == steps)
            with progress.paused():
                if validation and (step % validation.every == 0 or step == steps):
                    with averaged(ema, policy):
                        judged = validation(objective, policy, model, reference, prepare, run)
                    progress.held_out(step, judged, is_last=step == steps)
                if saving and step == steps:
                    checkpoints.save_last(step)
                elif saving:
                    checkpoints.save(step)
                bar.update()
                show(preview, step, run, ema, policy)
            if ending or (alone and stop.number):
                break
        stop.number = stop.everywhere(accelerator)
        if stop.number:
            stop.said = leave(step, progress, schedule.get_last_lr()[0], checkpoints)
    if ema:
        ema.copy_to(parameters)


def made(optimizer: Callable[[Any], Optimizer], trained: list[Any]) -> Optimizer:
    """The optimizer of these parameters."""
    try:
        return optimizer(trained)
    except ValueError as error:
        raise Refusal(f"The optimizer does not take its settings ({in_one_line(error)}); change them.") from error


def leave(step: int, progress: Progress, lr: float, checkpoints: Checkpoints) -> str:
    """Save the last whole step of a run that is asked to end; says what is kept."""
    if not step:
        return "No step was whole yet."
    if not progress.run.config.save_every:
        return f"fit.save_every is null, so nothing is kept of {step} steps."
    progress.meter.drop_unfinished()
    progress.read(step, lr)
    checkpoints.save(step)
    return f"{checkpoints.at(step)} holds all {step} steps."


def describe(run: Run, steps: int, size: int | None, parameters: list[nn.Parameter], lr: float) -> None:
    """Print what will really happen: batch and learning rate after everything that could scale them."""
    config, accelerator = run.config, run.accelerator
    epochs = f"{steps * config.batch_size / size:.2f} epochs of {size} pairs" if size else "from a stream"
    accelerator.print(
        f"{steps} steps of {config.batch_size} pairs ({accelerator.num_processes} processes x "
        f"{config.per_device_batch_size} x {accelerator.gradient_accumulation_steps} accumulated), {epochs}\n"
        f"learning rate {lr:g} ({config.schedule}, {config.warmup} warm-up steps), never scaled by the batch\n"
        f"{sum(p.numel() for p in parameters):,} trainable parameters, computed in "
        f"{str(run.storage).removeprefix('torch.')} on {accelerator.device}"
    )


def show(preview: Preview | None, step: int, run: Run, ema: Average | None, policy: nn.Module) -> None:
    """Draw the preview if it is due, with the weights that would be exported now."""
    if preview is None or step % preview.every:
        return
    if run.accelerator.is_main_process or is_sharded(policy):
        with averaged(ema, policy):
            preview(step, run.accelerator)
    run.accelerator.wait_for_everyone()


@contextmanager
def averaged(ema: Average | None, policy: nn.Module) -> Iterator[None]:
    """Inside, the trainable weights are their moving average, if there is one."""
    parameters = [p for p in policy.parameters() if p.requires_grad]
    reshard(policy)
    if ema:
        ema.store(parameters)
        ema.copy_to(parameters)
    try:
        yield
    finally:
        reshard(policy)
        if ema:
            ema.restore(parameters)
