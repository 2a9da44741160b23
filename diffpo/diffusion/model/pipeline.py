"""From a hub id, a folder or a single file to a plain diffusers pipeline."""

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import transformers
from diffusers import DiffusionPipeline

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.base.parts import from_folder
from diffpo.diffusion.base.quantize import FULL, Quantizing, Storing
from diffpo.diffusion.base.schedules import change_scheduler, require_as_trained
from diffpo.diffusion.base.single_files import UNUSED, Checkpoint, is_single
from diffpo.diffusion.families.sd import SD
from diffpo.diffusion.families.sdxl import SDXL
from diffpo.storage.hub import name_failed_loads, name_parse_errors

WHAT = {"unet": "a UNet", "transformer": "a transformer", "vae": "a VAE"}
PARTS = ("unet", "transformer", "vae", "scheduler")
PARTS += ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
CONFIGS = "the configs of a diffusers pipeline"
Encodes = bool | Literal["pictures", "prompts"]  # True is both
UNETS = (SD(), SDXL())  # what is loaded where no family is named
# With which settings a pipeline was loaded: lengths of prompts, say, hold for drawing, too.
LOADED: WeakKeyDictionary[Any, Family] = WeakKeyDictionary()
# Parts that a pipeline was saved without, beside those that were only left out here.
ABSENT: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def load_base(
    path: str,
    unet: str | None = None,
    vae: str | None = None,
    config: str | None = None,
    scheduler: dict[str, Any] | None = None,
    revision: str | None = None,
    variant: str | None = None,
    encodes: Encodes = True,
    denoises: bool = True,
    family: Family | None = None,
    storing: Storing = FULL,
) -> Any:
    """A text-to-image base as a plain pipeline; arguments as of `StableDiffusion`.

    Args:
        encodes: False leaves VAE, text encoders and tokenizers out, "pictures" all of these but the VAE, "prompts" the
            VAE alone.
        denoises: False leaves the network out.
        family: None is Stable Diffusion 1.x, 2.x or XL, whichever the pipeline is.
        storing: in which types; networks and text encoders of single files are in fp32 in any case.

    Raises:
        Refusal: if something cannot be found, is of another kind, lacks weights, or does not say what it is for.
    """
    named = {"unet": unet if denoises else None, "vae": vae if encodes in (True, "pictures") else None}
    replaced = {name: origin for name, origin in named.items() if origin is not None}
    if family and family.part != "unet":
        require_folders([path, *replaced.values()], family)
    files = {origin: Checkpoint.of(origin, WHAT[name]) for name, origin in replaced.items() if is_single(origin)}
    if is_single(path):
        files[path] = Checkpoint.of(path)
        home, revision, variant = home_of(files[path], config, family), None, None
    else:
        home = Home.of(path, revision, chosen=family)
    part = home.family.part
    replaced = {part if name == "unet" else name: origin for name, origin in replaced.items()}
    architecture = Home.of(config, what=CONFIGS, chosen=family) if config else home
    parts: dict[str, Any] = left_out(home.family, encodes, denoises)
    if home.absent and not denoises:
        parts[part] = make_hollow(home)
    for name in (part, *home.family.encoders):
        origin, stored = replaced.get(name, path), store_part(home.family, name, storing)
        if name in parts:
            continue
        if name in home.absent:
            parts[name] = None
        elif name.startswith("tokenizer"):
            encoder = parts[name.replace("tokenizer", "text_encoder")]
            parts[name] = home.family.tokenizer(home.kind(name), home.path, name, encoder, revision)
        elif origin in files:
            parts[name] = architecture.filled(name, files[origin])
        elif name in replaced:
            places = (name, "")
            parts[name] = from_folder(home.kind(name), origin, places, WHAT[name], None, variant, (), *stored)
        else:
            what = WHAT.get(name, f"a {name}")
            unused = UNUSED.get(name, ())
            parts[name] = from_folder(home.kind(name), path, (name,), what, revision, variant, unused, *stored)
    with name_failed_loads(home.path, "a diffusers pipeline"), name_parse_errors():
        pipeline = home.family.pipeline.from_pretrained(home.path, revision=revision, **home.family.options, **parts)
    if scheduler:
        pipeline.scheduler = change_scheduler(pipeline.scheduler, scheduler)
    LOADED[pipeline], ABSENT[pipeline] = home.family, home.absent
    home.family.require_fits(pipeline, home.path, replaced.get(part, path), replaced.get("vae", path))
    for file in files.values():
        require_as_trained(file.tensors, file.metadata, pipeline.scheduler, scheduler or {}, file.path)
    return pipeline


def store_part(family: Family, name: str, storing: Storing) -> tuple[Quantizing | None, torch.dtype]:
    """How a part is quantized, if at all, and in which type it is loaded."""
    if name == family.part:
        return storing.quantizing, torch.float32 if storing.quantizing else storing.network
    if not name.startswith("text_encoder"):
        return None, torch.float32
    return storing.quantizing_texts if name in family.large else None, storing.encoders


def require_folders(paths: Iterable[str], family: Family) -> None:
    """Raise a Refusal if one is a single file."""
    if single := [path for path in paths if is_single(path)]:
        raise Refusal(
            f"{single[0]} is a single file, which is read of Stable Diffusion alone; name a folder of a "
            f"{family.pipeline.__name__}."
        )


@dataclass(frozen=True)
class Home:
    """Where configs, tokenizers and scheduler of a pipeline are: a folder or hub id.

    Attributes:
        index: what `model_index.json` says.
        chosen: the family that the user named, if any.
    """

    path: str
    revision: str | None
    index: Mapping[str, Any]
    chosen: Family | None

    @classmethod
    def of(
        cls, path: str, revision: str | None = None, what: str = "a diffusers pipeline", chosen: Family | None = None
    ) -> "Home":
        """Read and checked.

        Raises:
            Refusal: if there is none, or a json file of a local one is broken.
        """
        for file in sorted([*Path(path).glob("model_index.json"), *Path(path).glob("*/*.json")]):
            if file.parent == Path(path) or file.parent.name in PARTS:
                require_object(file)
        with name_failed_loads(path, what), name_parse_errors():
            index: Any = DiffusionPipeline.load_config(path, revision=revision)
        return cls(path, revision, index, chosen)

    @property
    def family(self) -> Family:
        """Raises a Refusal, naming the right one, if the pipeline is of another family."""
        return find_family(str(self.index.get("_class_name")), self.path, self.chosen)

    @property
    def absent(self) -> set[str]:
        """Parts that the pipeline was saved without."""
        return {name for name in self.family.optional if self.index.get(name, [None, None]) == [None, None]}

    @property
    def networks(self) -> dict[str, Any]:
        """Classes of the parts that are of diffusers."""
        return {self.family.part: self.family.network, "vae": self.family.vae}

    def kind(self, name: str) -> Any:
        """The class of a part."""
        if name in self.networks:
            return self.networks[name]
        entry = self.index.get(name)
        try:
            library, kind = entry  # type: ignore[reportGeneralTypeIssues]
            return getattr({"transformers": transformers}[library], kind)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Refusal(
                f"{self.path} names no {name} of transformers in model_index.json (but {entry}); name a whole one."
            ) from error

    def filled(self, name: str, file: Checkpoint) -> Any:
        """A network of this architecture with weights from a single file."""
        kind = self.kind(name)
        with name_failed_loads(self.path, f"the config of {WHAT.get(name, name)}"), name_parse_errors():
            if name in self.networks:
                settings = kind.load_config(self.path, subfolder=name, revision=self.revision)
            else:
                settings = kind.config_class.from_pretrained(self.path, subfolder=name, revision=self.revision)
        if name in self.networks:
            return {"unet": file.unet, "vae": file.vae}[name](settings)
        return file.text_encoder(kind, settings, name)


def find_absent(path: str, revision: str | None, family: Family) -> set[str]:
    """Parts that a base of a family was saved without; diffusers wants to be told so."""
    return Home.of(path, revision, chosen=family).absent


def list_absent(pipeline: Any) -> set[str]:
    """Parts that a pipeline at hand was saved without, or made without."""
    if pipeline in ABSENT:
        return ABSENT[pipeline]
    return {name for name in family_of(pipeline).optional if pipeline.components[name] is None}


def home_of(file: Checkpoint, config: str | None, chosen: Family | None) -> Home:
    """Of a single file: what was named, or what diffusers recognises in it, fetched from the hub."""
    if config is not None:
        return Home.of(config, what=CONFIGS, chosen=chosen)
    try:
        return Home.of(file.home(), chosen=chosen)
    except Refusal as refusal:
        raise Refusal(
            f"{file.path} could not be read with the configs of the hub ({refusal}); name a folder with them in "
            "--base.config."
        ) from refusal


def require_object(file: Path) -> None:
    """Raise a Refusal if a json file is not ours to read, cut, a pointer, or no object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"{file} cannot be read ({error.strerror}); get the right to.") from error
    except ValueError as error:
        raise Refusal(f"{file} is no JSON ({error}); it may be cut or a git-lfs pointer: fetch it again.") from error
    if not isinstance(found, dict):
        raise Refusal(f"{file} holds a {type(found).__name__}, a JSON object is needed; fetch it again.")


def left_out(family: Family, encodes: Encodes, denoises: bool) -> dict[str, None]:
    """What diffusers takes for parts that are not to be loaded."""
    reads = {"vae": encodes in (True, "pictures"), family.part: denoises}
    names = (*family.encoders, family.part)
    return dict.fromkeys(name for name in names if not reads.get(name, encodes in (True, "prompts")))


def make_hollow(home: Home) -> Any:
    """A network without weights: its config tells how wide the states of absent text encoders are."""
    with name_failed_loads(home.path, "the config of a network"), name_parse_errors(), torch.device("meta"):
        return home.family.network.from_config(
            home.family.network.load_config(home.path, subfolder=home.family.part, revision=home.revision)
        )


def find_family(kind: str, path: str, chosen: Family | None = None) -> Family:
    """The family that was chosen, or Stable Diffusion 1.x, 2.x or XL.

    Raises:
        Refusal: naming the right family, if a pipeline is of another class.
    """
    if fitting := [family for family in ((chosen,) if chosen else UNETS) if family.pipeline.__name__ == kind]:
        return fitting[0]
    shipped = {family.pipeline.__name__: family.__name__ for family in list_shipped()}
    if kind in shipped:
        raise Refusal(f"{path} is a {kind}; set base.family to diffpo.diffusion.families.{shipped[kind]}.")
    known = ", ".join(sorted(shipped))
    raise Refusal(f"{path} is a {kind}; diffpo tunes text-to-image bases whose pipeline is one of {known}.")


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline that is at hand: what it was loaded as, or that of its class or of one it extends.

    Raises:
        Refusal: if it is of none.
    """
    if pipeline in LOADED:
        return LOADED[pipeline]
    for families in (list_families, list_shipped):
        known = {family.pipeline: family for family in families()}
        if found := [known[kind] for kind in type(pipeline).__mro__ if kind in known]:
            return found[0]()
    raise Refusal(f"{type(pipeline).__name__} is of no family in diffpo.diffusion.families; load the base by one.")


def list_shipped() -> list[Any]:
    """All classes of the catalogue."""
    face = importlib.import_module("diffpo.diffusion.families")
    return [getattr(face, name) for name in face.__all__]


def list_families(kind: type = Family) -> Iterator[Any]:
    """All that were imported, which those of every loaded base are."""
    for family in kind.__subclasses__():
        if "pipeline" in vars(family):
            yield family
        yield from list_families(family)
