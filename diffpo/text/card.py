"""The model card that is written beside the weights of a language model."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from diffpo import __version__
from diffpo.card import installed, judged, last_metrics, license_note, paths
from diffpo.core import Objective
from diffpo.hub import is_hub_id
from diffpo.text.data import TextData
from diffpo.text.loading import CausalLM


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
    method = f"{type(objective).__module__}.{type(objective).__qualname__}"
    averaged = f"the moving average of the run (decay {ema})" if ema else "the last of the run"
    sections = [
        f"# {repo or folder.resolve().name}",
        f"`{base.path}` tuned on text preferences by diffpo {__version__} (`{method}`).",
        f"The weights are {averaged}.",
        f"## Loading\n\n```python\n{snippet(base, repo or str(folder))}\n```",
        f"## Training\n\nData: `{data.source}`\n\n{report}",
        f"```bash\naccelerate launch {shlex.join(command)}\n```" if command else "",
        last_metrics(folder),
        judged(folder),
        f"## License\n\n{license_note(base.path)}",
        f"## Recipe\n\n{', '.join(f'{name} {number}' for name, number in installed().items())}",
        f"```yaml\n{settings.strip()}\n```",
    ]
    text = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{front_matter(base, data).to_yaml()}\n---\n\n{text}\n").save(folder / "README.md")


def front_matter(base: CausalLM, data: TextData) -> ModelCardData:
    """What the hub reads. It refuses bases and datasets that it does not have, so local paths are left out."""
    of_hub = is_hub_id(base.path)
    relation = "finetune" if base.adapter is None else "adapter"
    tags = ["text-generation", "diffpo"]
    sources: list[str] = [path for layout in data.source.layouts for path in paths(asdict(layout))]  # type: ignore[reportArgumentType]
    named: dict[str, Any] = {"base_model": base.path, "base_model_relation": relation} if of_hub else {}
    return ModelCardData(
        library_name="transformers" if base.adapter is None else "peft",
        pipeline_tag="text-generation",
        datasets=[path for path in sources if is_hub_id(path)] or None,
        tags=tags if base.adapter is None else [*tags, *base.adapter.tags],
        **named,
    )


def snippet(base: CausalLM, where: str) -> str:
    """Python that loads the result with transformers alone."""
    revision = "" if base.revision is None or base.adapter is None else f', revision="{base.revision}"'
    loaded = where if base.adapter is None else base.path
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{loaded}"{revision})',
        f'tokenizer = AutoTokenizer.from_pretrained("{where}")',
    ]
    return "\n".join(lines + ([] if base.adapter is None else base.adapter.snippet(where)))
