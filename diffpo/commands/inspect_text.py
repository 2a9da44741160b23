"""What a training on texts will do and need, and its first pairs, without a step of it.

diffpo inspect-text --config configs/text/quickstart.yaml
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from accelerate import Accelerator
from jsonargparse import set_parsing_settings
from torch import nn
from torch.optim import Optimizer

from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.data.pairs import require_suits, require_track
from diffpo.evaluation.win_rates import Evaluation
from diffpo.processes.launchers import autocast_type
from diffpo.text.data.excerpts import tell_pairs
from diffpo.text.data.pairs import HeldOutTexts, TextData, TextPairs, read_ordinary
from diffpo.text.data.tokenizing import count_notes
from diffpo.text.evaluation.shift import DistributionShift
from diffpo.text.model.loading import CausalLM
from diffpo.train.metrics import require_trackers
from diffpo.train.report.forecast import tell_length, tell_needs, tell_trained, warn
from diffpo.train.run import FitConfig
from diffpo.train.validation import keeps_best

set_parsing_settings(subclasses_enabled=[CausalLM])  # a base may be of another kind, e.g. VisionLM


def main(
    objective: Objective,
    base: CausalLM,
    data: TextData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    fit: FitConfig,
    output_dir: Path = Path("runs/inspected"),
    reference: Callable[[nn.Module], Reference] | None = None,
    validation: HeldOutTexts | None = None,
    evaluation: Evaluation | None = None,
    seed: int = 0,
    resume: str | None = None,
    reference_cache: Path | None = None,
    pairs: int = 3,
    settings: str = "",
) -> None:
    """Say what a training on texts will do and need, and show its first pairs; nothing is trained.

    It takes the options of `train-text`, so that a config is looked at as it is; what comes after the training is
    ignored.

    Args:
        objective: what would be minimised.
        base: the model that would be tuned.
        data: the pairs.
        optimizer: ignored.
        fit: length, batch, precision, bookkeeping.
        output_dir: of the training; nothing is written there, its disk has to have room.
        reference: read only for what is kept of it.
        validation: pairs kept from training.
        evaluation: ignored.
        seed: of every random draw of the run.
        resume: ignored.
        reference_cache: ignored.
        pairs: shown as the network reads them.
        settings: the resolved config.
    """
    transformers.utils.logging.disable_progress_bar()
    require_track(objective, "texts")
    require_trackers(fit.report_to)
    accelerator = Accelerator(mixed_precision=fit.mixed_precision)
    opening = seed, base.tokenizing()
    opened: Any
    held_out: Any
    opened, held_out = validation.split(data, *opening) if validation else (data.open(*opening), None)
    for some in [opened, *([held_out.pairs] if held_out else [])]:
        require_suits(objective, some)
    length, storage = tell_length(fit, opened.size, accelerator), autocast_type(accelerator)
    first = opened.first(pairs)
    model = base.load(accelerator.device, storage, seed)
    model.require_fits(first, data.max_length)
    objective.attach(model.network, seed)
    fresh = validation.fresh if validation else None
    shift = DistributionShift.of(held_out.pairs, fresh) if fresh else None
    needs_base = shift is not None or (objective.requires.reference and reference is None)
    copied = storage.itemsize if needs_base and base.adapter is None else 0
    print(tell_trained(objective, base.path, base.adapter, model.network, fit), length, sep="\n")
    print(f"pairs       {opened.report()} {tell_tokens(opened)} {model.report()}".rstrip())
    if held_out:
        print(f"held out    {held_out.pairs.report()}")
    if ordinary := read_ordinary(validation):
        print(f"ordinary    {len(ordinary)} texts, by which the capability loss is measured")
    if shift:
        print(f"fresh       {shift.report()}, by which the shift is measured")
    print(tell_needs(model.network, [], copied, fit, output_dir, keeps_best=keeps_best(validation)))
    for warning in warn(accelerator.device, storage, data.workers):
        print(f"warning: {warning}")
    print("first pairs as the network reads them; [[what counts]]")
    for line in tell_pairs(first, model.tokenizing.tokenizer):
        print(line)


def tell_tokens(pairs: TextPairs) -> str:
    """How long texts are, from all over the data, and what is done to them."""
    tokens = [each for row in pairs.sample() for each in pairs.reader(row)]
    lengths = [len(each.prompt) + len(each.completion) for each in tokens]
    notes = "".join(f" {n} {note}." for note, n in sorted(count_notes(tokens).items()))
    return (
        f"Of {len(tokens)} texts looked at, half have more than {np.median(lengths):.0f} tokens, the longest "
        f"{max(lengths)} (data.max_length {pairs.reader.max_length}).{notes}"
    )
