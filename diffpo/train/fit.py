"""The training loop. It knows optimisers and checkpoints, and nothing about pairs, images or text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from diffpo.core.draws import Draws
from diffpo.core.moving import MovingParts
from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import gather_tensor, is_sharded, reshard
from diffpo.data.pairs import Batch, Pairs
from diffpo.data.sampler import ProcessShare
from diffpo.processes.stopping import end_in_order
from diffpo.storage.files import in_one_line
from diffpo.storage.whole import require_finite
from diffpo.train.ema import EmaWeights
from diffpo.train.metrics import Meter
from diffpo.train.progress import Progress, tell_plan
from diffpo.train.run import Run, count_copies, require_disk
from diffpo.train.state.best import Best, write_best
from diffpo.train.state.checkpoint import Checkpoints
from diffpo.train.state.training_state import TrainingState
from diffpo.train.validation import Prepare, Validation

T = TypeVar("T")


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

    That is the last weights, their moving average if there is one, or what `validation.keep_best` chooses of these.

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
        preview: something to look at, drawn at step 0, then every `preview.every` steps and after the last.
        validation: held-out pairs that are judged with the weights that would be exported.

    Raises:
        Refusal: if weights are not finite before the first step, or the optimizer does not take its settings.
        Refusal: if loss or gradient stops being finite; no checkpoint is written from then on.
        Refusal: if a checkpoint cannot be written; of the last one that is only told.
        Refusal: if `run.resume` names a checkpoint of another run, or one beyond the last step, or if epochs are
            asked of a stream.
        Refusal: if the best is asked for by a metric that the validation does not tell.
        Stopped: if a signal has come.
    """
    config, accelerator = run.config, run.accelerator
    steps = config.steps_on(pairs.size)
    require_finite(policy.named_parameters(), "Before the first step the base, or its adapter,", "weights")
    learner = Learner.of(objective, policy, reference, prepare, optimizer, run, steps)
    best = opened_best(learner, validation)
    checkpoints = opened(learner, pairs, best)
    step = checkpoints.resume(run.resume) if run.resume else 0
    if step > steps:
        raise Refusal(f"checkpoint-{step:06d} lies beyond the {steps} steps of fit; raise them, or resume earlier.")
    run.begin()
    if learner.ema:
        learner.ema.to(accelerator.device)
    tell_plan(run, steps, pairs.size, learner.parameters, learner.schedule.base_lrs[0])

    accumulate, place = accelerator.gradient_accumulation_steps, (accelerator.process_index, accelerator.num_processes)
    share = ProcessShare(config.per_device_batch_size, run.seed, *place, first=step * accumulate)
    bar = tqdm(total=steps, initial=step, disable=not accelerator.is_main_process, desc="fit", mininterval=1)
    progress, alone = Progress(run, bar, step), accelerator.num_processes == 1
    books = Bookkeeping(learner, steps, progress, checkpoints, preview, validation, best)
    books.show(step)
    micro_steps = 0 if books.is_last(step) else (steps - step) * accumulate
    with end_in_order("Saved steps are kept.") as stop, bar:  # which is closed on an error too: that gets its own line
        for n, raw in enumerate(islice(pairs.batches(share), micro_steps), start=1):
            norm = learner.micro_step(raw, step, progress.meter)
            if n % accumulate:
                if alone and stop.number:
                    break
                continue
            step += 1
            learner.update(norm, progress.meter)
            progress.meter.keep()
            ending = stop.everywhere(accelerator)
            books.keep(step)
            if ending or books.is_last(step) or (alone and stop.number):
                break
        stop.number = stop.everywhere(accelerator)
        if stop.number:
            stop.said = books.leave(step)
    if learner.ema:
        learner.ema.copy_to(learner.parameters)
    if best:
        best.take(step, run.accelerator, run.output_dir)


@dataclass(frozen=True, eq=False)
class Learner:
    """A policy with all that moves with it, step by step.

    Attributes:
        policy: the network itself.
        model: the same as wrapped for training.
        parameters: what is trained of it.
        optimizer, schedule: as accelerate has prepared them.
        ema: the moving average of the parameters, if there is one.
    """

    run: Run
    objective: Objective
    policy: nn.Module
    model: Any
    reference: Reference | None
    prepare: Prepare
    parameters: list[nn.Parameter]
    optimizer: Any
    schedule: Any
    ema: EmaWeights | None

    @classmethod
    def of(
        cls,
        objective: Objective,
        policy: nn.Module,
        reference: Reference | None,
        prepare: Prepare,
        optimizer: Callable[[Any], Optimizer],
        run: Run,
        steps: int,
    ) -> "Learner":
        """Wrap a policy for training, on its device and over its processes."""
        config = run.config
        stepper = made(optimizer, objective.trained(policy))
        schedule = get_scheduler(config.schedule, stepper, num_warmup_steps=config.warmup, num_training_steps=steps)
        model, stepper = run.accelerator.prepare(policy, stepper)
        parameters = [p for p in policy.parameters() if p.requires_grad]  # sharding has replaced them
        ema = EmaWeights(parameters, decay=config.ema) if config.ema is not None else None
        return cls(run, objective, policy, model, reference, prepare, parameters, stepper, schedule, ema)

    def micro_step(self, raw: Batch, step: int, meter: Meter) -> Any:
        """Learn from one micro-batch; with the last one of a step the weights move.

        Returns:
            The norm of the step's gradient before it was clipped; None before the last micro-batch.
        """
        accelerator, norm = self.run.accelerator, None
        draws = Draws(self.run.seed, raw.epoch, raw.row, accelerator.device)
        with accelerator.accumulate(self.model):
            if self.reference is not None:
                self.reference.at(draws)
            trained, batch = self.prepare(self.model, raw, draws)
            with self.run.autocast():
                result = self.objective.after(step)(trained, self.reference, batch, draws)
            accelerator.backward(result.loss)
            meter.add(result.metrics)
            meter.add_number("loss", result.loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.parameters, self.run.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return norm

    def update(self, norm: Any, meter: Meter) -> None:
        """What follows the weights, when a step has moved them: learning rate, averages, reference."""
        accelerator, moving = self.run.accelerator, self.objective.requires.moving
        if accelerator.optimizer_step_was_skipped:  # fp16 skips a step whose scaled gradients overflow
            for part in moving:
                part.forget()
            return
        for part in moving:
            for name, number in part.curves.items():
                meter.add_number(name, number.to(accelerator.device))
            part.after_step(accelerator.reduce)
        meter.add_number("grad_norm", gather_tensor(torch.as_tensor(norm, device=accelerator.device)))
        self.schedule.step()
        if self.ema:
            self.ema.step(self.parameters)
        if self.reference is not None:
            self.reference.after_step(self.policy)

    def judged_by(self, look: Callable[..., T]) -> T:
        """What a validation sees."""
        return look(self.objective, self.policy, self.model, self.reference, self.prepare, self.run)

    @property
    def lr(self) -> float:
        return self.schedule.get_last_lr()[0]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the trainable weights are their moving average, if there is one: what would be exported now."""
        reshard(self.policy)
        if self.ema:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            reshard(self.policy)
            if self.ema:
                self.ema.restore(self.parameters)


def opened_best(learner: Learner, validation: Validation | None) -> Best | None:
    """The best weights of a run, none yet; None if the last ones are its result. Its validation begins.

    Raises:
        Refusal: if the validation does not tell the metric that decides.
    """
    run = learner.run
    if run.accelerator.is_main_process:
        write_best(run.output_dir, None)
    if validation is None:
        return None
    if validation.keep_best is not None:
        validation.keep_best.require_known(learner.judged_by(validation.names))
    learner.judged_by(validation.begin)
    return None if validation.keep_best is None else Best(validation.keep_best, learner.parameters)


def opened(learner: Learner, pairs: Pairs, best: Best | None) -> Checkpoints:
    """The checkpoints of a run, which know what they hold.

    Raises:
        Refusal: if the disk has no room for them, or for what is exported at the end.
    """
    run, config = learner.run, learner.run.config
    moving = {"schedule": learner.schedule, "average": learner.ema, "reference": learner.reference, "best": best}
    if parts := learner.objective.requires.moving:
        moving["objective"] = MovingParts(parts)
    others = {name: part for name, part in moving.items() if part is not None}
    state = TrainingState(run.accelerator, learner.policy, learner.model, learner.optimizer, others)
    exported = sum(p.numel() * p.element_size() for p in learner.parameters)
    copies = count_copies(config, best is not None)
    require_disk(run.output_dir, copies * exported, config.keep, exported, run.checkpoints.bytes)
    known = pairs.fingerprint() if run.accelerator.is_main_process and (run.resume or config.save_every) else None
    return replace(run.checkpoints, data=known, state=state)


@dataclass(frozen=True, eq=False)
class Bookkeeping:
    """What is read, judged, saved and shown between two steps.

    Attributes:
        steps: the last one, unless patience ends the run before.
    """

    learner: Learner
    steps: int
    progress: Progress
    checkpoints: Checkpoints
    preview: Preview | None
    validation: Validation | None
    best: Best | None

    def is_last(self, step: int) -> bool:
        """Whether nothing is trained after this step."""
        return step == self.steps or (self.best is not None and self.best.is_over)

    def keep(self, step: int) -> None:
        """All that is due after this step."""
        config, is_last = self.learner.run.config, self.is_last(step)
        judging = self.validation and (step % self.validation.every == 0 or is_last)
        saving = bool(config.save_every) and step % config.save_every == 0
        if saving or step % config.log_every == 0 or is_last or (judging and self.best):
            self.progress.read(step, self.learner.lr, is_last)
        with self.progress.paused():
            if self.validation and judging:
                self.judge(self.validation, step)
            if config.save_every and self.is_last(step):
                self.checkpoints.save_last(step)
            elif saving:
                self.checkpoints.save(step)
            self.progress.bar.update()
            self.show(step)

    def judge(self, validation: Validation, step: int) -> None:
        """Judge held-out pairs with the weights that would be exported now."""
        with self.learner.averaged():
            judged = self.learner.judged_by(validation)
            if self.best:
                self.best.hear(step, judged)
        self.progress.held_out(step, judged, is_last=self.is_last(step))

    def show(self, step: int) -> None:
        """Draw the preview if it is due, with the weights that would be exported now."""
        accelerator = self.learner.run.accelerator
        if self.preview is None or (step % self.preview.every and not self.is_last(step)):
            return
        if accelerator.is_main_process or is_sharded(self.learner.policy):
            with self.learner.averaged():
                self.preview(step, accelerator)
        accelerator.wait_for_everyone()

    def leave(self, step: int) -> str:
        """Save the last whole step of a run that is asked to end; says what is kept."""
        if not step:
            return "No step was whole yet."
        if not self.learner.run.config.save_every:
            return f"fit.save_every is null, so nothing is kept of {step} steps."
        self.progress.meter.drop_unfinished()
        self.progress.read(step, self.learner.lr)
        self.checkpoints.save(step)
        return f"{self.checkpoints.at(step)} holds all {step} steps."


def made(optimizer: Callable[[Any], Optimizer], trained: list[Any]) -> Optimizer:
    """The optimizer of these parameters."""
    try:
        return optimizer(trained)
    except ValueError as error:
        raise Refusal(f"The optimizer does not take its settings ({in_one_line(error)}); change them.") from error
