"""What an evaluation compares: a base, a base with tuned parts, or a folder of finished pictures."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Network, Part, shift_weights
from diffpo.data.files.tables import PICTURES, folder_of
from diffpo.data.row_maps import scored_by
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.evaluation.drawing import digest_texts
from diffpo.diffusion.evaluation.listing import LISTING, read_listing
from diffpo.diffusion.model.lora import tell_encoders
from diffpo.diffusion.model.pipeline import LOADED, family_of, load_base
from diffpo.diffusion.pipelines.negative import (
    NegativeGuidanceMixin,
    StableDiffusionNegativePipeline,
    StableDiffusionXLNegativePipeline,
)
from diffpo.diffusion.pipelines.negative_parts import adapters, open_part, require_known_range
from diffpo.evaluation.scorer import Scorer
from diffpo.lora.files import read_lora
from diffpo.lora.layers import put_layers, put_text
from diffpo.storage.files import require_folder, require_name
from diffpo.storage.hub import require_reachable
from diffpo.train.state.checkpoint import CONFIG

NEGATIVE = {
    StableDiffusionPipeline: StableDiffusionNegativePipeline,
    StableDiffusionXLPipeline: StableDiffusionXLNegativePipeline,
}
ENCODERS = ("text_encoder", "text_encoder_2")
# What an evaluation writes beside the folders of its models.
TAKEN = ("config.yaml", "files.json", "report.json", "report.html", "before_after.png", "geneval", "guidance")
WEIGHTS = {".safetensors", ".bin", ".ckpt", ".pt"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison.

    Args:
        name: in tables and folders.
        base: hub id, folder or single file of a pipeline.
        unet: a UNet that replaces the base's: hub id, folder (what `train_diffusion_dpo.py` wrote), or file.
        lora: adapters on top, of the UNet, text encoders or both: hub id, folder or file of any trainer's layout.
        negative: what guidance leads away from (arXiv:2505.11245), tuned from the base on reversed preference: hub id,
            folder or file of a network, a LoRA or a difference (`scripts/convert_weights.py mix-negative`). What
            answers in the negative half is base + alpha (unet and lora - base) + mix (negative - base).
        alpha: how much of unet and lora is in the negative half.
        mix: how much of the negative is.
        vae: a VAE that replaces the base's.
        config: for a single file, see `diffpo.diffusion.StableDiffusion`.
        scheduler: settings that replace those of the base's scheduler.
        revision: of a hub id as base.
        variant: of the base's weight files, e.g. fp16.
        pictures: a folder of finished pictures instead of all that, ordered by name, those of one prompt together; or
            with a `prompts.jsonl` that has `prompt` and, where it is not 00000.png and so on, `file` of each.
        family: of the base, see `diffpo.diffusion.StableDiffusion`; `unet` is then its transformer.
        outside: whether `prompts.jsonl` may name files that lie elsewhere: reports show them.

    Raises:
        Refusal: if it names both a base and pictures, or neither, or its name cannot be that of a folder.
    """

    name: str
    base: str | None = None
    unet: str | None = None
    lora: str | None = None
    negative: str | None = None
    alpha: float = 1.0
    mix: float = 1.0
    vae: str | None = None
    config: str | None = None
    scheduler: dict[str, Any] | None = None
    revision: str | None = None
    variant: str | None = None
    pictures: str | None = None
    outside: bool = False
    family: Family | None = None

    def __post_init__(self):
        if (self.base is None) == (self.pictures is None):
            raise Refusal(f"Model {self.name!r} needs a base to draw with, or a folder of pictures: one of the two.")
        require_name(self.name, "a model", TAKEN)

    def load(self) -> Any:
        """A pipeline in fp32.

        Raises:
            Refusal: if a part cannot be found, or is of another architecture.
        """
        assert self.base is not None
        pipeline = load_base(
            self.base,
            self.unet,
            self.vae,
            self.config,
            self.scheduler,
            self.revision,
            self.variant,
            family=self.family,
        )
        family = family_of(pipeline)
        unet = pipeline.components[family.part].state_dict()
        if self.lora is not None:
            add_lora(pipeline, self.lora)
        if self.negative is None:
            return pipeline
        mixed = self.negative_network(self.base, self.negative, unet, family.part)
        return lead_away(pipeline, mixed)

    def negative_network(self, base: str, negative: str, unet: Mapping[str, Tensor], part: str) -> nn.Module:
        """The network of the negative half.

        Args:
            unet: weights of the positive half, without the LoRA.
            part: of the pipeline that it is.
        """
        require_known_range(alpha=self.alpha, mix=self.mix)
        of_base = {"config": self.config, "revision": self.revision, "variant": self.variant, "family": self.family}
        mixed = load_base(base, encodes=False, **of_base).components[part]
        parts: list[tuple[float, Part]] = [(self.mix, open_part(negative, mixed.config, type(mixed)))]
        if self.unet is not None:
            parts.append((self.alpha, Network(self.unet, unet)))
        if self.lora is not None:
            parts.append((self.alpha, adapters(read_lora(self.lora, {part: mixed}))))
        shift_weights(mixed, parts)
        return mixed

    def require_reachable(self) -> None:
        """Raise a Refusal that names the first part that can be found neither here nor on the hub."""
        parts = {"a UNet": self.unet, "a LoRA": self.lora, "a negative": self.negative, "a VAE": self.vae}
        for what, path in {"the configs of a diffusers pipeline": self.config, **parts}.items():
            if path is not None:
                require_reachable(path, what)
        if self.base is not None:
            require_reachable(self.base, "a diffusers pipeline", self.revision)

    @property
    def kind(self) -> str:
        """Of its network, in words."""
        return "transformer" if self.family and self.family.part == "transformer" else "UNet"

    @property
    def source(self) -> str:
        parts = [self.base, self.unet and f"{self.kind} {self.unet}", self.lora and f"LoRA {self.lora}", self.pictures]
        parts.append(self.negative and f"negative {self.negative} (alpha {self.alpha:g}, mix {self.mix:g})")
        return " + ".join(part for part in parts if part)

    @property
    def identity(self) -> dict[str, Any]:
        """What its pictures depend on, the state of local weights included."""
        other = {"name", "outside"} if self.negative else {"name", "outside", "alpha", "mix"}
        chosen = {name: value for name, value in asdict(self).items() if value is not None and name not in other}
        if self.family is not None:
            chosen["family"] = repr(self.family)
        parts = (self.base, self.unet, self.lora, self.negative, self.vae)
        local = [Path(path) for path in parts if path and Path(path).exists()]
        return {"model": chosen, "files": stamp_files([file for path in local for file in list_weight_files(path)])}

    def files(self, prompts: list[str], pictures: int) -> list[Path]:
        """The finished pictures, `pictures` for each prompt.

        Raises:
            Refusal: if they are not that many, or belong to other prompts.
        """
        folder = Path(self.pictures or "")
        require_folder(folder, f"the pictures of {self.name!r}")
        listing = folder / LISTING
        if listing.exists():
            found = read_listing(listing, self.outside)
            said, files = [prompt for prompt, _ in found], [file for _, file in found]
        else:
            files, said = sorted(file for file in folder.glob("*") if file.suffix.lower() in PICTURES), None
        asked = [prompt for prompt in prompts for _ in range(pictures)]
        if len(files) != len(asked):
            raise Refusal(
                f"{self.name!r} has {len(files)} pictures in {folder}, {len(prompts)} prompts with {pictures} each "
                f"need {len(asked)}; set prompts.count or sampling.pictures to what they were drawn with."
            )
        if said is not None and said != asked:
            other = next(number for number, (one, two) in enumerate(zip(said, asked, strict=True)) if one != two)
            raise Refusal(
                f"Picture {other} of {self.name!r} was drawn for {said[other]!r}, not {asked[other]!r}; "
                "compare on the same prompts."
            )
        return files

    @property
    def runs(self) -> list[str]:
        """What may be folders of training runs."""
        return [path for path in (self.unet, self.lora, self.negative) if path]


def lead_away(pipeline: Any, negative: nn.Module) -> Any:
    """The same pipeline, whose guidance leads away from what a network draws."""
    family = family_of(pipeline)
    parts = {**family.options, f"negative_{family.part}": negative}
    made = negative_class(type(pipeline)).from_pipe(pipeline, **parts)
    LOADED[made] = family
    return made


def negative_class(kind: Any) -> Any:
    """A class of pipelines with a negative."""
    return NEGATIVE.get(kind) or type(f"{kind.__name__}Negative", (NegativeGuidanceMixin, kind), {})


def add_lora(pipeline: Any, path: str) -> None:
    """Put adapters into the network and the text encoders of a pipeline, as many as the file has.

    Raises:
        Refusal: if they are for another architecture, naming a layer that does not fit.
    """
    encoders = {name: part for name, part in pipeline.components.items() if name in ENCODERS and part is not None}
    part = family_of(pipeline).part
    network = pipeline.components[part]
    file = read_lora(path, {part: network} | encoders)
    if file.others:
        raise Refusal(f"{file.beside}, which {type(pipeline).__name__} does not have; name the base it belongs to.")
    tell_encoders(path, pipeline)
    if file.layers:
        put_layers(network, file.layers, "lora")
    for name, encoder in encoders.items():
        if file.parts[name]:
            put_text(encoder, file.parts[name], "lora")


def require_distinct(models: list[ComparedModel], output_dir: Path) -> None:
    """Raise a Refusal if there are no models, two of one name, or one whose own files are where its pictures go."""
    names = Counter(model.name.casefold() for model in models)  # some disks take both cases for one
    if not names:
        raise Refusal("There are no models to compare; name some in `models`.")
    if doubled := [name for name, count in names.items() if count > 1]:
        raise Refusal(f"Two models are called {doubled[0]!r}; give each a name of its own.")
    for model in models:
        for path in (model.base, model.unet, model.lora, model.negative, model.pictures):
            if path and Path(path).resolve() == (output_dir / model.name).resolve():
                raise Refusal(f"{path} is where the pictures of {model.name!r} would go; choose another output_dir.")


def list_warnings(runs: Mapping[str, Sequence[str]], scorers: Sequence[Scorer]) -> list[str]:
    """What a reader of a comparison has to know: which judges labelled training data.

    Args:
        runs: by name of the model, folders that training runs may have left.
    """
    return [
        f"{name} was trained on labels of {label['scorer']} ({label['model_id']}), so what it says of the "
        "model shows how well the labels were learned, not how good the pictures are; judge it by another."
        for name, folders in runs.items()
        for folder in folders
        for label in list_labelers(folder_of(folder))
        if any((label["scorer"], label["model_id"]) == (scorer.name, scorer.model_id) for scorer in scorers)
    ]


def list_labelers(run: Path) -> Iterator[dict[str, Any]]:
    """Identities of the scorers that labelled the pairs of a training run, as far as its folder says."""
    if not (run / CONFIG).exists():
        return
    try:
        data = yaml.safe_load((run / CONFIG).read_text()).get("data") or {}
        rows = data.get("rows") or []
    except (ValueError, AttributeError, yaml.YAMLError):
        log.warning(
            f"{run / CONFIG} is damaged, so nothing tells whether a scorer labelled its pairs, which must "
            "not judge it; copy it again, e.g. from a checkpoint there."
        )
        return
    if any("ScoreLabel" in str(row) for row in rows):
        for path in find_named(data.get("source"), "path"):
            if (identity := scored_by(folder_of(path))) is not None:
                yield identity


def list_weight_files(path: Path) -> Iterator[Path]:
    """Every file of weights, but those that a run keeps besides its result."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.suffix in WEIGHTS and not any(part.startswith("checkpoint-") for part in file.parts):
            yield file


def stamp_files(files: Sequence[Path]) -> str:
    """A digest of names, sizes and times: files that are written anew have another one. A file may be absent."""
    found = {str(file): file.stat() for file in files if file.exists()}
    return digest_texts([f"{name} {at.st_size} {at.st_mtime_ns}" for name, at in sorted(found.items())])


def find_named(tree: Any, name: str) -> Iterator[str]:
    """Every value of that name, however deep."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name and isinstance(value, str):
                yield value
            else:
                yield from find_named(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from find_named(value, name)
