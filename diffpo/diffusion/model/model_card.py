"""The model card that is written beside the weights."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from diffpo.core.objective import Objective
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.data.source import Source
from diffpo.diffusion.base.single_files import is_single
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.families.sd import SD
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.pipeline import find_absent, find_family
from diffpo.lora.layers import loads_loras
from diffpo.storage.hub import LICENSES, is_hub_id
from diffpo.train.model_card import find_paths, write_closing, write_opening
from diffpo.train.state.best import read_best

log = logging.getLogger(__name__)


def write_card(
    folder: Path,
    base: StableDiffusion,
    data: PairData,
    objective: Objective,
    report: str,
    settings: str,
    pipeline: str = "StableDiffusionPipeline",
    ema: float | None = None,
    prompts: Sequence[str] = (),
    command: Sequence[str] = (),
    repo: str | None = None,
) -> None:
    """Write `README.md`: what was tuned on what and how, what it looks like, what was measured, how to load it.

    Metrics, report and pictures are those that lie in the folder by now.

    Args:
        report: what became of the data, for the record.
        settings: the resolved config.
        pipeline: class name of the base.
        ema: decay of the moving average that the weights are, or None.
        prompts: those of the previews.
        command: script and arguments of the run.
        repo: where it will be published, which the card then loads it from; None is the folder.
    """
    name, best = repo or folder.resolve().name, read_best(folder)
    sections = [
        *write_opening(name, base.path, "image preferences", objective, ema, best),
        *pictures(folder),
        f"## Loading\n\n```python\n{write_snippet(base, pipeline, repo or str(folder))}\n```",
        other_parts(base),
        f"## Training\n\nData: {name_source(data.source)}\n\n{report}",
        describe_path(base, objective),
        *write_closing(folder, base.path, settings, command),
    ]
    head = front_matter(base, data, write_gallery(folder, prompts)).to_yaml()
    text = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{head}\n---\n\n{text}\n").save(folder / "README.md")


def front_matter(base: StableDiffusion, data: PairData, widget: list[dict[str, Any]]) -> ModelCardData:
    """What the hub reads. It refuses bases and datasets that it does not have, so local paths are left out."""
    tags = ["diffusers", "text-to-image", "diffusion-dpo", "diffpo"]
    bases = [path for path in (base.path, base.unet) if path is not None and is_hub_id(path)]
    relation = "finetune" if base.adapter is None else "adapter"
    licensed: dict[str, Any] = dict(LICENSES.get(base.path, {}))
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=(bases[0] if len(bases) == 1 else bases) or None,
        base_model_relation=relation if bases else None,
        datasets=[path for path in list_sources(data.source) if is_hub_id(path)] or None,
        tags=tags if base.adapter is None else [*tags, *base.adapter.tags],
        widget=widget or None,
        **licensed,
    )


def name_source(source: Source) -> str:
    """The source and, if it was encoded, what it was encoded from."""
    origins = [layout.encoding["source"] for layout in source.layouts if isinstance(layout, EncodedPairs)]
    return f"`{source}`" + "".join(f", encoded from `{origin}`" for origin in origins)


def list_sources(source: Source) -> list[str]:
    """Where the pictures come from."""
    return [
        path
        for layout in source.layouts
        for path in (layout.encoding["datasets"] if isinstance(layout, EncodedPairs) else find_paths(asdict(layout)))  # type: ignore[reportArgumentType]
    ]


def write_snippet(base: StableDiffusion, pipeline: str, where: str) -> str:
    """Python that loads the result: with diffusers alone, but for parts that diffusers does not know."""
    single = is_single(base.path)
    named = {"config": base.config} if single else {"revision": base.revision, "variant": base.variant}
    options = "".join(f", {name}={value!r}" for name, value in named.items() if value is not None)
    load, full = "from_single_file" if single else "from_pretrained", base.adapter is None
    family = find_family(pipeline, base.path, base.family)
    part, kind = family.part, family.network.__name__
    lines = [*write_imports([family.pipeline, *([family.network] if full else [])]), ""]
    if full:
        lines += [f'{part} = {kind}.from_pretrained("{where}", subfolder="{part}")']
    absent = sorted(find_absent(base.path, base.revision, family)) if family.optional else []
    options += "".join(f", {name}=None" for name in absent)
    lines += [f'pipe = {pipeline}.{load}("{base.path}"{f", {part}={part}" if full else ""}{options})']
    if base.scheduler:
        lines += [f"pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **{base.scheduler})"]
    if base.adapter is not None and loads_loras(family.network):
        lines += base.adapter.snippet(where)
    elif base.adapter is not None:
        lines[:1] = [lines[0], "from peft import PeftModel"]
        lines += [f'pipe.{part} = PeftModel.from_pretrained(pipe.{part}, "{where}")']
    return "\n".join(lines)


def write_imports(kinds: list[Any]) -> list[str]:
    """Of classes of diffusers, or of somebody's own module."""
    found: dict[str, list[str]] = {}
    for kind in kinds:
        module = kind.__module__
        found.setdefault("diffusers" if module.startswith("diffusers.") else module, []).append(kind.__name__)
    return [f"from {module} import {', '.join(names)}" for module, names in found.items()]


def describe_path(base: StableDiffusion, objective: Objective) -> str:
    """Of a family that was named: how the network was called, in which space errors were compared, and when."""
    if base.family is None:
        return ""
    lines = [f"The network was called as `{base.family}`."]
    if base.family.guidance is not None:
        lines[0] += f" If guidance is embedded in it, it was told {base.family.guidance:g}, as policy and reference."
    if base.quantize is not None:
        lines[0] += (
            f" It was quantized ({base.quantize}) in training, as policy and reference; the LoRA loads without."
        )
    if base.quantize_text_encoders is not None:
        lines[0] += f" Its large text encoders were quantized ({base.quantize_text_encoders}) in training."
    settings = vars(objective)
    lines += [f"{name.capitalize()}: `{settings[name]}`." for name in ("space", "noising") if name in settings]
    return "\n\n".join(lines)


def other_parts(base: StableDiffusion) -> str:
    """What else the pipeline needs: parts that replaced those of the base and are not among the weights."""
    parts = {"vae": base.vae} | ({} if base.adapter is None else {(base.family or SD()).part: base.unet})
    named = [f"`{name}=` with the one of `{path}`" for name, path in parts.items() if path is not None]
    return f"Give the pipeline also {' and '.join(named)}: it was tuned with that." if named else ""


def pictures(folder: Path) -> list[str]:
    """The newest preview and the comparison of the evaluation, as far as there are any."""
    shown = {
        "Preview: the base above, the tuned model below": newest_preview(folder),
        "Evaluation: before and after": folder / "before_after.png",
    }
    return [f"![{title}]({file.relative_to(folder)})" for title, file in shown.items() if file.exists()]


def newest_preview(folder: Path) -> Path:
    """Of the tuned model; a path that does not exist if there is none."""
    return max(folder.glob("previews/step-*[1-9]*.png"), default=folder / "previews" / "none")


def write_gallery(folder: Path, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Entries of the hub's gallery: the lower row of the newest preview, cut into `images/0.png` and so on."""
    newest = newest_preview(folder)
    if not prompts or not newest.exists():
        return []
    try:
        grid = read_image(newest)
    except BrokenImage as error:
        log.warning(f"{newest} is damaged ({error}); the card gets no gallery. Remove that file.")
        return []
    side = grid.width // len(prompts)
    (folder / "images").mkdir(exist_ok=True)
    for i in range(len(prompts)):
        grid.crop((i * side, grid.height - side, (i + 1) * side, grid.height)).save(folder / "images" / f"{i}.png")
    return [{"text": prompt, "output": {"url": f"images/{i}.png"}} for i, prompt in enumerate(prompts)]
