"""LoRA files of any trainer, read whole or refused: every layer with its two matrices and its own alpha.

diffusers' own loader drops what it does not know, or loads some of the layers, with a warning at best.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, list_repo_files
from jaxtyping import Float
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.lora.names import guess_kind, is_wrapped, layer_names, split_key
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.tensors import open_tensors, read_header
from diffpo.storage.whole import require_finite, tell_unwrapped

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.bin")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"
# Settings of peft's that are read here, that the weights tell by themselves, or that matter only while training.
KNOWN = {"r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "lora_dropout", "lora_bias"}
KNOWN |= {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias"}
KNOWN |= {"task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"}
KNOWN |= {"init_lora_weights", "eva_config", "fan_in_fan_out"}
# Starts that leave the base's weights as they are.
STARTS = (True, False, "gaussian", "orthogonal", "eva")

WHAT = {"unet": "a UNet"}
Networks = Mapping[str, nn.Module | None]
Shape = tuple[int, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layer:
    """The update alpha / rank x up x down of one linear or convolution layer's weight W.

    Attributes:
        magnitude: with it, the rows of W + update are rescaled to these norms (DoRA, arXiv:2402.09353, eq. 5).
    """

    down: Float[Tensor, "rank ..."]
    up: Float[Tensor, "out rank ..."]
    alpha: float
    magnitude: Float[Tensor, " out"] | None = None


@dataclass(frozen=True, eq=False)
class LoraFile:
    """What a file holds.

    Attributes:
        parts: of each network that was asked for, the layers by their names in it; empty if there are none.
        others: names of weights that belong to other networks.
        dropout: with which the layers of the first network were trained.
    """

    path: str
    parts: Mapping[str, Mapping[str, Layer]]
    others: tuple[str, ...] = ()
    dropout: float = 0.0

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Those of the first network."""
        return next(iter(self.parts.values()))

    @property
    def beside(self) -> str:
        """Words for what it changes beside the networks that were asked for; empty if there is nothing."""
        if not self.others:
            return ""
        return f"{self.path} also changes other networks ({len(self.others)} weights, first {self.others[0]})"


def read_lora(path: str, networks: Networks) -> LoraFile:
    """A LoRA of Stable Diffusion in the layout of diffusers (all that it ever wrote), peft, kohya or ComfyUI.

    Args:
        path: hub id, folder or file.
        networks: that it may change, by their names in the pipeline; first the one that is meant where a file names
            none. None stands for one that is not at hand: its layers are not checked, and named as in the file.

    Raises:
        Refusal: if it holds none, or something that is not read, or does not fit the networks; it names the first
            such weight.
    """
    file = locate_lora(path)
    state = read_pickled(file) if file.suffix in PICKLED else open_tensors([file])
    with name_failed_loads(path, "a LoRA"):
        settings = None if file.suffix in PICKLED else json.loads(read_header(file).get(METADATA, "null"))
        if settings is None and file.stem == Path(FILES[1]).stem and file.with_name(CONFIG).exists():
            settings = json.loads(file.with_name(CONFIG).read_text())
        if not isinstance(settings, dict | None):
            raise ValueError(f"the settings in it are no table but {settings!r}")
    return parse_lora(path, state, settings, networks)


def parse_lora(
    path: str, state: Mapping[str, Tensor], settings: Mapping[str, Any] | None, networks: Networks
) -> LoraFile:
    """As `read_lora`, of tensors that are at hand.

    Args:
        path: for messages.
        settings: of peft's, each with its network's name before it or all of the first network; None if unknown.
    """
    main = next(iter(networks))
    shapes = {part: None if network is None else layer_shapes(network) for part, network in networks.items()}
    found, others = sort_names(path, state, networks, shapes)
    parts, dropout = {}, 0.0
    for part, layers in found.items():
        mine = settings_of(path, settings, part, main)
        known = shapes[part] or {}
        parts[part] = {
            name: fit_layer(path, state, keys, name, known.get(name), mine) for name, keys in layers.items()
        }
        require_magnitudes(path, parts[part], mine)
        if mine is None and (guessed := [keys for keys in layers.values() if "alpha" not in keys]):
            log.warning(f"{path}: {len(guessed)} of {len(layers)} layers say no alpha; it is taken to be their rank.")
        if mine is not None and part == main:
            dropout = float(mine["lora_dropout"])
    tell_unwrapped([key for key in state if is_wrapped(key)], path)
    return LoraFile(path, parts, tuple(others), dropout)


def sort_names(
    path: str, keys: Iterable[str], networks: Networks, shapes: Mapping[str, Mapping[str, Shape] | None]
) -> tuple[dict[str, dict[str, dict[str, str]]], list[str]]:
    """The names of weights by network, layer and role, and those that belong to other networks."""
    main = next(iter(networks))
    keys = sorted(keys)
    if strange := [key for key in keys if guess_kind(key)]:
        raise Refusal(
            f"{path} is no plain LoRA: it holds {guess_kind(strange[0])} ({len(strange)} weights, first "
            f"{strange[0]}), "
            "which are not read; merge it into its base with the program that made it and name the result as base."
        )
    names = {part: None if known is None else layer_names(known) for part, known in shapes.items()}
    found: dict[str, dict[str, dict[str, str]]] = {part: {} for part in networks}
    odd, others = [], []
    for key in keys:
        part, layer, role = split_key(key, main)
        if role is None:
            odd.append(key)
        elif part not in found:
            others.append(key)
        else:
            known = names[part]
            if known is not None and layer not in known:
                raise Refusal(
                    f"{path} was trained for another {type(networks[part]).__name__}: the base has no layer {layer} "
                    f"(it has {key}); name one of this base."
                )
            roles = found[part].setdefault(layer if known is None else known[layer], {})
            if role in roles:
                raise Refusal(f"{path} holds one weight twice, as {roles[role]} and as {key}; remove one of them.")
            roles[role] = key
    if not any(found.values()):
        seen = ", ".join([*odd, *others][:2]) or "none"
        raise Refusal(
            f"{path} holds no LoRA of {WHAT.get(main, f'a {main}')} (its weights are {seen}, ...); name one that does."
        )
    if odd:
        raise Refusal(
            f"{path} is no plain LoRA: {len(odd)} of its weights are of an unknown kind, first {odd[0]}; name a file "
            "that diffusers, peft or kohya's trainer wrote."
        )
    return found, others


def fit_layer(
    path: str,
    state: Mapping[str, Tensor],
    keys: Mapping[str, str],
    name: str,
    shape: Shape | None,
    settings: Mapping[str, Any] | None,
) -> Layer:
    """A layer whose weights are all there, finite and of the shapes that the network's own has.

    Args:
        keys: names in the file by role.
        shape: of the network's weight; None if it is not at hand.
    """
    if absent := [role for role in ("down", "up") if role not in keys]:
        raise Refusal(f"{path} is no plain LoRA ({min(keys.values())} has no {absent[0]} matrix); take a whole file.")
    found = {role: state[key] for role, key in keys.items()}
    rank, *inner = found["down"].shape or (0,)
    out, *_ = found["up"].shape or (0,)
    if shape is not None:
        out, *inner = shape
    one = (1,) * (len(inner) - 1)
    # Magnitudes of a convolution are (1, out, 1, 1) in peft's files, (out, 1, 1, 1) in others, as in linear layers.
    rows = (1, out) if one and not keys.get("magnitude", "").endswith("dora_scale") else (out,)
    wanted = {"down": (rank, *inner), "up": (out, rank), "magnitude": rows, "alpha": ()}
    for role, key in keys.items():
        have = tuple(found[role].shape)
        if role == "magnitude" and len(have) > 1 and have[0] == 1 and rows == (out,):
            raise Refusal(f"{path} has magnitudes of columns ({key}: {have}), not of rows; merge it into its base.")
        if role != "alpha" and not found[role].is_floating_point():
            raise Refusal(
                f"{path} is no plain LoRA: its {key} is of {found[role].dtype}; take a file in fp16 or fp32."
            )
        if trim_shape(have) != trim_shape(wanted[role]) or rank == 0:
            raise Refusal(
                f"{path} was trained for another base: its {key} has shape {have}, not {wanted[role]}; "
                "name one of this base."
            )
    require_finite(((keys[role], tensor) for role, tensor in found.items()), path, "a LoRA")
    down, up = found["down"].reshape(rank, *inner), found["up"].reshape(out, rank, *one)
    magnitude = found["magnitude"].flatten() if "magnitude" in found else None
    return Layer(down, up, float(found["alpha"]) if "alpha" in found else find_alpha(name, rank, settings), magnitude)


def trim_shape(shape: Shape) -> Shape:
    """Without ones at the end: a convolution of one pixel is stored as a matrix or as itself."""
    return trim_shape(shape[:-1]) if shape[-1:] == (1,) else shape


def find_alpha(name: str, rank: int, settings: Mapping[str, Any] | None) -> float:
    """Of a layer that does not have it beside its weights: in peft's settings, or else its rank, as for diffusers."""
    if settings is None:
        return float(rank)
    pattern = settings.get("alpha_pattern") or {}
    found = float(pattern.get(get_pattern_key(list(pattern), name), settings["lora_alpha"]))
    # Rank-stabilized LoRA (arXiv:2312.03732) divides alpha by the root of the rank.
    return found * rank**0.5 if settings.get("use_rslora") else found


def settings_of(path: str, settings: Any, part: str, main: str) -> Mapping[str, Any] | None:
    """Those of one network; None if the file says nothing of it.

    Raises:
        Refusal: if they say that more than the weights in the file was changed, or in another way.
    """
    if settings is None:
        return None
    if any("." in key for key in settings):
        mine = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
    else:
        mine = dict(settings) if part == main else {}
    if not mine:
        return None
    plain = LoraConfig().to_dict()
    odd = {key: value for key, value in mine.items() if key not in KNOWN and value and value != plain.get(key)}
    if mine.get("init_lora_weights", True) not in STARTS:
        odd["init_lora_weights"] = mine["init_lora_weights"]
    if odd:
        first, value = next(iter(odd.items()))
        raise Refusal(
            f"{path} is no plain LoRA: it was made with {first}: {' '.join(str(value).split())[:60]} of peft's, which "
            "is not read; merge it into its base with peft, and name the result as the base."
        )
    mine = {"lora_alpha": plain["lora_alpha"], "lora_dropout": 0.0} | mine
    try:
        patterns = dict(mine.get("alpha_pattern") or {})
        right = all(map(isfinite, (mine["lora_alpha"], mine["lora_dropout"], *patterns.values())))
        right = right and all(map(re.compile, patterns))
    except (TypeError, ValueError, re.error):
        right = False
    if not right:
        told = {key: mine.get(key) for key in ("lora_alpha", "alpha_pattern", "lora_dropout")}
        raise Refusal(f"{path} has settings that peft cannot have written ({str(told)[:150]}); take another file.")
    return mine


def require_magnitudes(path: str, layers: Mapping[str, Layer], settings: Mapping[str, Any] | None) -> None:
    """Raise a Refusal if some layers of a DoRA have magnitudes and some do not."""
    without = [name for name, layer in layers.items() if layer.magnitude is None]
    if without and (len(without) < len(layers) or (settings or {}).get("use_dora")):
        raise Refusal(
            f"{path} is a DoRA of which {len(without)} of {len(layers)} layers have no magnitude, first {without[0]}; "
            "take a whole file."
        )


def layer_shapes(network: nn.Module) -> dict[str, Shape]:
    """Shapes of the weights of linear and convolution layers, by their names without any adapters around them."""
    found = {}
    for name, module in network.named_modules():
        if ".lora_" in name:
            continue
        if isinstance(module, nn.Linear):
            found[name.removesuffix(".base_layer")] = (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found[name.removesuffix(".base_layer")] = tuple(module.weight.shape)
    return found


def locate_lora(path: str) -> Path:
    """The file of a LoRA: itself, or in a folder or repository the one of a known name, or the only one.

    Raises:
        Refusal: if there is none, or it is not clear which.
    """
    place = Path(path)
    if place.is_file():
        return place
    with name_failed_loads(path, "a LoRA"):
        names = sorted(file.name for file in place.iterdir()) if place.is_dir() else list_repo_files(path)
        found = [name for name in FILES if name in names]
        for endings in ((".safetensors",), PICKLED):
            found = found or [name for name in names if name.endswith(endings) and "/" not in name]
        if not found:
            raise FileNotFoundError("no .safetensors or .bin file is there")
        if found[0] in FILES or len(found) == 1:
            if place.is_dir():
                return place / found[0]
            if CONFIG in names:
                hf_hub_download(path, CONFIG)
            return Path(hf_hub_download(path, found[0]))
    raise Refusal(f"{path} has several files of weights ({', '.join(found[:5])}); name the one that is meant.")


def read_pickled(file: Path) -> dict[str, Tensor]:
    """Tensors that torch saved, by name.

    Raises:
        Refusal: if they cannot be read, or are no tensors.
    """
    with name_failed_loads(str(file), "a LoRA"):
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise Refusal(f"{file} does not hold a LoRA that can be read: it is no table of tensors.")
    return state
