"""The model card that is written beside the weights of a language model."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from diffpo.core.objective import Objective
from diffpo.storage.hub import is_hub_id
from diffpo.text.data.pairs import TextData
from diffpo.text.model.loading import CausalLM
from diffpo.train.model_card import find_paths, write_closing, write_opening
from diffpo.train.state.best import read_best


def write_card(
    folder: Path,
    base: CausalLM,
    data: TextData,
    objective: Objective,
    report: str,
    settings: str,
    ema: float | None = None,
    command: Sequence[str] = (),
    repo: str | None = None,
) -> None:
    """Write `README.md`: what was tuned on what and how, what was measured, how to load it.

    Metrics and report are those that lie in the folder by now.

    Args:
        report: what became of the data, for the record.
        settings: the resolved config.
        ema: decay of the moving average that the weights are, or None.
        command: script and arguments of the run.
        repo: where it will be published, which the card then loads it from; None is the folder.
    """
    name, best = repo or folder.resolve().name, read_best(folder)
    sections = [
        *write_opening(name, base.path, "text preferences", objective, ema, best),
        f"## Loading\n\n```python\n{write_text_snippet(base, repo or str(folder))}\n```",
        f"## Training\n\nData: `{data.source}`\n\n{report}",
        *write_closing(folder, base.path, settings, command),
    ]
    text = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{front_matter(base, data).to_yaml()}\n---\n\n{text}\n").save(folder / "README.md")


def front_matter(base: CausalLM, data: TextData) -> ModelCardData:
    """What the hub reads. It refuses bases and datasets that it does not have, so local paths are left out."""
    of_hub = is_hub_id(base.path)
    relation = "finetune" if base.adapter is None else "adapter"
    tags = [base.task, "diffpo"]
    sources: list[str] = [path for layout in data.source.layouts for path in find_paths(asdict(layout))]  # type: ignore[reportArgumentType]
    named: dict[str, Any] = {"base_model": base.path, "base_model_relation": relation} if of_hub else {}
    return ModelCardData(
        library_name="transformers" if base.adapter is None else "peft",
        pipeline_tag=base.task,
        datasets=[path for path in sources if is_hub_id(path)] or None,
        tags=tags if base.adapter is None else [*tags, *base.adapter.tags],
        **named,
    )


def write_text_snippet(base: CausalLM, where: str) -> str:
    """Python that loads the result with transformers alone."""
    revision = "" if base.revision is None or base.adapter is None else f', revision="{base.revision}"'
    loaded = where if base.adapter is None else base.path
    network, reader = base.network_class.__name__, base.reader_class.__name__
    lines = [
        f"from transformers import {network}, {reader}",
        "",
        f'model = {network}.from_pretrained("{loaded}"{revision})',
        f'{base.reads_by} = {reader}.from_pretrained("{where}")',
    ]
    return "\n".join(lines + ([] if base.adapter is None else base.adapter.snippet(where)))
