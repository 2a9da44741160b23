"""One network of a pipeline, from a folder or hub id, with all of its weights."""

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from safetensors.torch import load_file

from diffpo.core.references import store_matrices
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.files import loaded_files
from diffpo.diffusion.base.quantize import Quantizing, find_weights, restore_layers
from diffpo.storage.digests import require_exported
from diffpo.storage.hub import name_parse_errors
from diffpo.storage.tensors import open_tensors
from diffpo.storage.whole import load_whole, unwrap_name

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_|pytorch_)?model(?:-\d+-of-\d+)?(?:\.(\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)
ADAPTERS = (".base_layer.", ".lora_")

log = logging.getLogger(__name__)


def from_folder(
    kind: Any,
    path: str,
    places: tuple[str, ...],
    what: str,
    revision: str | None = None,
    variant: str | None = None,
    spare: tuple[str, ...] = (),
    quantizing: Quantizing | None = None,
    storage: torch.dtype = torch.float32,
) -> Any:
    """A network.

    Args:
        kind: class of diffusers or transformers.
        path: hub id or folder.
        places: subfolders of it, "" being the top: the network is in the first of them that is there.
        what: it is, for messages.
        variant: of the weight files; if there are none of it, the others are taken, which is told.
        spare: weights that the files may have besides.
        quantizing: how layers of its blocks are stored in few bits; None leaves them.
        storage: type of its weights; of a network of diffusers that of its matrices alone (`store_matrices`), and the
            others are fp32. No copy of all in fp32 is made on the way.

    Raises:
        Refusal: if there is none, or weights are absent, too many, or of other shapes, or it is not what a run has
            exported there.
    """
    if Path(path).is_dir():
        require_exported(folder_in(path, places))
    find = load_local if Path(path).is_dir() else load_remote
    load = partial(find, kind, path, places, revision, variant, storage=storage)
    if quantizing:
        return load_whole(partial(load, quantizing=quantizing), path, what, spare, weights=find_weights)
    network = load_whole(load, path, what, spare)
    if quantized := [name for name, parameter in network.named_parameters() if not parameter.is_floating_point()]:
        raise Refusal(
            f"{path} holds {what} in few bits ({quantized[0]}, say); name one whose weights are not quantized."
        )
    return network


def folder_in(path: str, places: tuple[str, ...]) -> Path:
    """The first of some subfolders of a folder that is there."""
    return next(filter(Path.is_dir, (Path(path, place) for place in places)), Path(path, places[0]))


def load_local(
    kind: Any, path: str, places: tuple[str, ...], revision: str | None, variant: str | None, **asked: Any
) -> tuple[Any, dict[str, Any]]:
    """The network of a folder, and what its library says of the weights."""
    folder = folder_in(path, places)
    have = {found[1] for file in folder.glob("*") if (found := WEIGHTS.fullmatch(file.name))}
    if have and not have & {variant, None}:
        raise OSError(f"its weights are of variant {min(filter(None, have))}; name it in --base.variant")
    if variant and variant not in have:
        log.warning(f"{folder} has no weights of variant {variant}; those without a variant are taken.")
    return read_network(kind, str(folder), "", None, variant if variant in have else None, **asked)


def load_remote(
    kind: Any, path: str, places: tuple[str, ...], revision: str | None, variant: str | None, **asked: Any
) -> tuple[Any, dict[str, Any]]:
    """The network of a hub id, and what its library says of the weights."""
    errors = []
    for place in places:
        for choice in dict.fromkeys((variant, None)):
            try:
                found = read_network(kind, path, place, revision, choice, **asked)
            except OSError as error:
                errors.append(error)
                continue
            if choice != variant:
                log.warning(f"{path}/{place} gives no weights of variant {variant}; those without are taken.")
            return found
    raise errors[0]


def read_network(
    kind: Any,
    path: str,
    place: str,
    revision: str | None,
    variant: str | None,
    key_mapping: Any = None,
    quantizing: Quantizing | None = None,
    storage: torch.dtype = torch.float32,
    **asked: Any,
) -> tuple[Any, dict[str, Any]]:
    """A network, and what its library says of the weights.

    Args:
        key_mapping: as of transformers; diffusers has no such thing.
        quantizing, storage: as of `from_folder`.

    Raises:
        OSError: if something cannot be found, or the network carries adapters, or cannot be quantized as it is.
    """
    where: dict[str, Any] = {"subfolder": place, "revision": revision, "variant": variant, "dtype": storage}
    mapping = {"key_mapping": key_mapping} if key_mapping and not issubclass(kind, ModelMixin) else {}
    shared = []
    if quantizing:
        bare = make_bare(kind, path, place, revision)
        where["quantization_config"], shared = quantizing.config(bare), quantizing.shared(bare)
        if key_mapping:
            raise OSError("its weights have names of a wrapper; save the network again without it, or do not quantize")
    elif issubclass(kind, ModelMixin) and storage != torch.float32:
        kind, where["dtype"] = store_at_once(kind, storage), None
    with name_parse_errors():
        loaded: Any = kind.from_pretrained(path, **where, **asked, **mapping)
    network, report = loaded
    if shared:
        restore_layers(network, shared, open_tensors(loaded_files(find_folder(path, place, revision), variant)))
    if adapters := sorted(n for n in report["unexpected_keys"] if any(mark in n for mark in ADAPTERS)):
        raise OSError(
            f"it was saved with adapters, the first is {adapters[0]}; merge them into it (pipe.fuse_lora(), "
            "pipe.unload_lora_weights()) and save it again"
        )
    if key_mapping and not mapping:
        report = unwrap_weights(network, find_folder(path, place, revision), variant)
    return network, report


def store_at_once(kind: Any, storage: torch.dtype) -> Any:
    """A class of diffusers whose networks have matrices of a type before they are filled; diffusers then gives each
    weight the type that is there."""

    def from_config(cls: Any, *args: Any, **kwargs: Any) -> Any:
        network = kind.from_config(*args, **kwargs)
        store_matrices(network.requires_grad_(False), storage)
        return network

    return type(kind.__name__, (kind,), {"from_config": classmethod(from_config)})


def find_folder(path: str, place: str, revision: str | None) -> Path:
    """A subfolder of a folder, or of what was fetched of a hub id."""
    if not Path(path).exists():
        path = snapshot_download(path, revision=revision, allow_patterns=[f"{place}/config.json"])
    return Path(path, place)


def make_bare(kind: Any, path: str, place: str, revision: str | None) -> Any:
    """A network without weights.

    Raises:
        OSError: if its config cannot be found, or its weights are quantized already.
    """
    of_diffusers = bool(issubclass(kind, ModelMixin))
    with name_parse_errors(), torch.device("meta"):
        if of_diffusers:
            config = settings = kind.load_config(path, subfolder=place, revision=revision)
        else:
            config = kind.config_class.from_pretrained(path, subfolder=place, revision=revision)
            settings = config.to_dict()
        if settings.get("quantization_config"):
            raise OSError("it is quantized already; name one whose weights are not")
        return kind.from_config(config) if of_diffusers else kind(config)


def unwrap_weights(network: Any, folder: Path, variant: str | None) -> dict[str, Any]:
    """Give a network what is in its files under other names, and say what did not fit."""
    found: dict[str, torch.Tensor] = {}
    for file in loaded_files(folder, variant):
        tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        found |= {unwrap_name(name): tensor for name, tensor in tensors.items()}
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    fitting = {name: tensor for name, tensor in found.items() if own.get(name) == tuple(tensor.shape)}
    network.load_state_dict(fitting, strict=False, assign=True)
    network.float()
    misshapen = sorted((found.keys() & own.keys()) - fitting.keys())
    return {
        "missing_keys": own.keys() - found.keys(),
        "unexpected_keys": found.keys() - own.keys(),
        "mismatched_keys": [(name, tuple(found[name].shape), own[name]) for name in misshapen],
    }
