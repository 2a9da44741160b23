"""The recipe of both tracks: open pairs and check them, tune a policy to them, leave what a run promises."""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.data.pairs import RowPairs, require_suits
from diffpo.evaluation.win_rates import Evaluation
from diffpo.storage.files import tell_failed_writes
from diffpo.train.fit import Preview, fit
from diffpo.train.publish import Publish
from diffpo.train.reference_cache import require_still
from diffpo.train.report.curves import draw_curves
from diffpo.train.report.ending import tell_ending
from diffpo.train.run import Run
from diffpo.train.validation import Validation, ValidationSplit

MakeReference = Callable[[], Reference]


@runtime_checkable
class LoadedBase(Protocol):
    """What `base.load` gives, in either track."""

    @property
    def network(self) -> Any:
        """What is trained."""
        ...

    def reference(self) -> Reference:
        """The base as it is now: its adapters switched off, or a frozen copy if all of it is trained."""
        ...

    def prepare(self, model: nn.Module, raw: Any, draws: Draws) -> tuple[Any, Any]:
        """Policy and batch as the objective takes them, from the network as wrapped and a batch as collated."""
        ...

    def report(self) -> str:
        """What the record has to say of it besides; every process has to call this."""
        ...

    def save(self, folder: Path, writes: bool = True) -> None:
        """Write what was trained; every process has to call this, and one of them writes."""
        ...


def open_pairs(
    objective: Objective, data: Any, validation: ValidationSplit | None, run: Run, *opening: Any
) -> tuple[Any, Validation | None]:
    """The track's pairs, and those that are held out.

    Args:
        opening: what `data.open` takes after the seed.

    Raises:
        Refusal: if they cannot be read, or are not what the objective learns from.
    """
    opening = run.seed, *opening
    with run.accelerator.main_process_first():  # the others then find what it has kept of the source
        pairs, held_out = validation.split(data, *opening) if validation else (data.open(*opening), None)
    for some in [pairs, *([held_out.pairs] if held_out else [])]:
        require_suits(objective, some)
    return pairs, held_out


RESUMED = " What turned up while reading is counted since the run was resumed."


def align(
    objective: Objective,
    model: LoadedBase,
    pairs: RowPairs,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    run: Run,
    reference: Callable[[nn.Module], Reference] | None = None,
    remembered: Callable[[MakeReference], Reference] | None = None,
    preview: Preview | None = None,
    held_out: Validation | None = None,
) -> str:
    """Tune a loaded base and write what was trained; returns what became of the data, for the record.

    Args:
        reference: made of the network; None is the untuned base.
        remembered: makes that of the untuned base one whose answers are kept.
    """
    make = partial(reference, model.network) if reference else model.reference
    if remembered:
        require_still(reference)
        make = partial(remembered, make)
    frozen = make() if objective.requires.reference else None
    objective.attach(model.network, run.seed)
    since = RESUMED if run.resume and run.checkpoints.found() else ""  # in an empty folder, "latest" begins
    fit(objective, model.network, frozen, pairs, model.prepare, optimizer, run, preview, held_out)
    report = f"{pairs.report()} {model.report()}".strip() + since
    run.accelerator.print(report)
    model.save(run.output_dir, writes=run.accelerator.is_main_process)
    return report


def finish(
    run: Run,
    write_card: Callable[..., None],
    evaluation: Evaluation | None,
    load: Callable[[], Mapping[str, Any]],
    publish: Publish | None = None,
    loading: str = "",
) -> None:
    """Curves, card, evaluation and publication of a run whose weights are written; its trackers end.

    Args:
        write_card: the track's; all is given but the command.
        load: the models to evaluate, by name. None of those that were trained should still be held.
        loading: Python that loads the result.
    """
    accelerator, folder = run.accelerator, run.output_dir

    def card() -> None:
        if accelerator.is_main_process:
            with tell_failed_writes(f"The model card of {folder}"):
                write_card(command=sys.argv)

    if accelerator.is_main_process and (missing := draw_curves(folder)):
        accelerator.print(missing)
    card()
    if evaluation:
        accelerator.wait_for_everyone()  # until what was trained is written
        accelerator.free_memory()  # of the optimizer: two more models are coming
        evaluation(dict(load()), folder, run.seed)
        card()  # now with what was measured
    if publish and accelerator.is_main_process:
        publish(folder)
    accelerator.end_training()
    accelerator.print(tell_ending(folder, loading))
