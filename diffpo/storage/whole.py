"""What is loaded is whole: the names and shapes in a file against those of the network that it fills.

Libraries only warn about weights that a file lacks, has under other names or has in other shapes, and leave the
network's own, random ones in their place.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.storage.hub import name_failed_loads

COMPILED = "_orig_mod."
WRAPPERS = ("module.", "policy.", "state_dict.")
# The same as transformers' `key_mapping` says it.
UNWRAPPING = {re.escape(COMPILED): "", f"^(?:{'|'.join(map(re.escape, WRAPPERS))})+": ""}

# The last one lists all weights as "not sharded" as soon as the first is silent.
LISTING = (
    "transformers.modeling_utils",
    "diffusers.models.modeling_utils",
    "transformers.distributed.tensor_parallel",
)
UNMERGED = ("base_model.", ".base_layer.", ".lora_")

log = logging.getLogger(__name__)


def match_weights(
    found: Mapping[str, Sequence[int] | None],
    wanted: Mapping[str, Sequence[int]],
    path: str,
    what: str,
    spare: Iterable[str] = (),
) -> dict[str, str]:
    """The name in the network of each tensor in a file; what torch.compile, DDP and trainers put before is taken off.

    Args:
        found: shapes by name in the file; None is a shape that is not known.
        wanted: shapes by name in the network.
        path: of the file, for messages.
        what: it should hold, e.g. "a UNet".
        spare: names that the file may have though the network has not, or lack though it has; they are left out.

    Raises:
        Refusal: if the file lacks a tensor, has one too many, or one of another shape: it names the first.
    """
    spare = set(spare)
    names = {name: name if name in wanted else unwrap_name(name) for name in found}
    names = {name: ours for name, ours in names.items() if ours in wanted or ours not in spare}
    there = set(names.values())
    have = Counter((ours, shape_of(found[name])) for name, ours in names.items())
    need = Counter((ours, shape_of(shape)) for ours, shape in wanted.items() if ours in there or ours not in spare)
    if misfits := sorted({ours for ours, _ in (have - need) + (need - have)}):
        first = misfits[0]
        unmerged = any(part in name for name in misfits for part in UNMERGED) and not any(map(is_adapter, wanted))
        remedy = "merge its adapters first (peft's merge_and_unload)" if unmerged else "name the file of this network"
        raise Refusal(
            f"{path} does not hold {what}: {len(misfits)} of its weights do not fit, the first is {first}, which has "
            f"shape {dict(have.keys()).get(first, 'none')} and should have {dict(need.keys()).get(first, 'none')}; "
            f"{remedy}."
        )
    tell_unwrapped([name for name, ours in names.items() if name != ours], path)
    return names


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def shape_of(shape: Sequence[int] | None) -> tuple[int, ...] | str:
    return "unknown" if shape is None else tuple(shape)


def unwrap_name(name: str) -> str:
    """A weight's name without what torch.compile, DDP or a trainer put before it."""
    name = name.replace(COMPILED, "")
    while wrapper := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(wrapper)
    return name


def tell_unwrapped(names: Sequence[str], path: str) -> None:
    if names:
        log.warning(f"{path}: {len(names)} names of weights lost what a wrapper had put into them, e.g. {names[0]}.")


def fill_network(
    network: nn.Module, tensors: Mapping[str, Tensor], path: str, what: str, called: Callable[[str], str] = str
) -> None:
    """Give a network all of its weights from a file; see `match_weights`.

    Args:
        tensors: become the network's own, without a copy.
        called: the name in the file of one of the network's weights.

    Raises:
        Refusal: if the file lacks a weight, has one too many, or one of another shape: it names the first.
    """
    own = network.state_dict()
    ours = {called(name): name for name in own}
    wanted = {theirs: own[name].shape for theirs, name in ours.items()}
    names = match_weights({name: tensor.shape for name, tensor in tensors.items()}, wanted, path, what)
    network.load_state_dict({ours[theirs]: tensors[name] for name, theirs in names.items()}, assign=True)
    require_finite(network.named_parameters(), path, what)


def load_whole(
    load: Callable[..., Any],
    path: str,
    what: str,
    spare: Iterable[str] = (),
    others: bool = False,
    weights: Callable[[Any], Iterable[tuple[str, Tensor]]] = nn.Module.named_parameters,
) -> Any:
    """A network as transformers or diffusers load it, checked to have all of its weights from the files.

    Args:
        load: a `from_pretrained` with its arguments bound. If there are wrappers, it is called again with those to
            take off (`key_mapping`, as of transformers).
        path, what: as of `match_weights`.
        spare: names that the files may have though the network has not.
        others: whether the files may hold other networks, too; more layers of this one they may not.
        weights: of a network by name, as numbers that can be summed.

    Raises:
        Refusal: if it cannot be reached or read, or a weight is absent, too many, or of another shape: it names the
            first.
    """
    asked = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with name_failed_loads(path, what), silence_reports():
        network, report = load(**asked)
        loaded = network.state_dict().keys() - report["missing_keys"]
        wrapped = sorted(name for name in report["unexpected_keys"] if name != unwrap_name(name))
        if any(not loaded.isdisjoint(list_endings(unwrap_name(name))) for name in wrapped):
            wrapped = []  # some are there twice
        if wrapped:
            network, report = load(**asked, key_mapping=UNWRAPPING)
            vars(network).pop("_weight_conversions", None)  # transformers would write the wrappers again
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found: dict[str, Any] = {name: shape for name, shape in wanted.items() if name not in report["missing_keys"]}
    found |= {name: there for name, there, _ in report["mismatched_keys"]}
    found |= dict.fromkeys(report["unexpected_keys"])
    spare = set(spare) - wanted.keys()
    if others:
        kinds = {drop_numbers(name) for name in wanted}
        spare |= {name for name in report["unexpected_keys"] if drop_numbers(name) not in kinds}
    match_weights(found, wanted, path, what, spare)
    tell_unwrapped(wrapped, path)
    require_finite(weights(network), path, what)
    return network


@contextmanager
def silence_reports() -> Iterator[None]:
    """Inside, libraries do not list weights that did not fit: whoever loads refuses them in one line."""
    loggers = [logging.getLogger(name) for name in LISTING]
    for logger in loggers:
        logger.addFilter(drop_record)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(drop_record)


def drop_record(_: logging.LogRecord) -> bool:
    return False


def list_endings(name: str) -> list[str]:
    """The name, and what is left of it without each of its first parts: libraries may have a prefix of their own."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def drop_numbers(name: str) -> str:
    """What weights of all layers have in common."""
    return re.sub(r"\d+", "#", name)


@torch.no_grad()
def require_finite(weights: Iterable[tuple[str, Tensor]], path: str, what: str) -> None:
    """Raise a Refusal if a weight is NaN or infinite, naming it; those in few bits by torchao, which adds up none, are
    left out."""
    for name, weight in weights:
        if type(weight).__module__.startswith("torchao."):
            continue
        if not math.isfinite(weight.sum(dtype=torch.float32).item()):
            raise Refusal(f"{path} holds {what} that is broken: {name} is not finite; take an earlier state of it.")
