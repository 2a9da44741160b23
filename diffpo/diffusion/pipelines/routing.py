"""Two networks behind one: who answers which half of the batches of classifier-free guidance."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import ChromaTransformer2DModel, ZImageTransformer2DModel
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

# Arguments about positions in a picture: their first axis is no batch, whatever its length.
UNBATCHED = {"image_rotary_emb", "img_ids", "txt_ids", "ip_adapter_masks"}
# Networks of which pipelines ask the conditional half first, as lists of pictures and of prompts.
CONDITIONAL_FIRST = (ZImageTransformer2DModel,)
# Of which they ask the halves in two calls without names, the conditional first.
TAKING_TURNS = (ChromaTransformer2DModel,)


@dataclass(eq=False)
class Routing:
    """What becomes of the calls of a network during one call of its pipeline.

    Pipelines of diffusers either put both halves into one batch, the unconditional first (but for Z-Image, whose
    batches are lists), or call twice and name each call by `cache_context` (but for Chroma). A call with other rows
    than the first has no two halves: guidance was switched off on the way, or it is a call of its own, such as that of
    skip-layer guidance.

    Attributes:
        negative: answers the unconditional half.
        guided: whether batches have two halves, where calls have no names.
        around: what the negative is called in.
        conditional_first: whether the first half of a batch is the conditional one, and batches are lists.
        turns: whether every second call is the unconditional half.
        calls: that were answered.
        rows: of the first batch.
        name: of the call that is made, None where calls have none.
    """

    negative: Callable[..., Any]
    guided: bool
    around: Callable[[], AbstractContextManager] = nullcontext
    conditional_first: bool = False
    turns: bool = False
    calls: int = 0
    rows: int | None = None
    name: str | None = None

    def answer(self, positive: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the network called with these arguments is to say; `positive` is its own answer."""
        self.calls += 1
        if self.turns:
            away = self.guided and self.calls % 2 == 0
            return self.other(*args, **kwargs) if away else positive(*args, **kwargs)
        if self.name == "uncond":
            return self.other(*args, **kwargs)
        rows = len(next(iter((*args, *kwargs.values()))))
        self.rows = self.rows or rows
        if not self.guided or rows != self.rows or self.name not in (None, "cond_uncond"):
            return positive(*args, **kwargs)
        networks = (positive, self.other) if self.conditional_first else (self.other, positive)
        halves = (slice(rows // 2), slice(rows // 2, None))
        return join_answers(
            *(
                call_network(network, take_half((args, kwargs), rows, half, self.conditional_first))
                for network, half in zip(networks, halves, strict=True)
            )
        )

    def other(self, *args: Any, **kwargs: Any) -> Any:
        with self.around():
            return self.negative(*args, **kwargs)

    @contextmanager
    def naming(
        self, own: Callable[..., Any], others: Callable[..., Any] | None, name: str, **where: Any
    ) -> Iterator[None]:
        """In place of the `cache_context` of a network: that of both, and the name is kept."""
        self.name = name
        try:
            with ExitStack() as stack:
                for context in (own, others):
                    if context is not None:
                        stack.enter_context(context(name, **where))
                yield
        finally:
            self.name = None


@contextmanager
def answer_calls(network: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """Inside, calls of the network are answered by `answer(own, ...)`; afterwards it is as it was.

    Every call leads through `Module._compiled_call_impl`, which in-place compilation sets. Taking that place leaves
    everything further in as it is: hooks, patched forwards (offloading, caches) and compiled graphs. A module hook
    would become part of a graph, and one added after compilation is not noticed.

    Args:
        answer: gets the network's own way to answer, and the arguments.
    """
    own = vars(network).get("_compiled_call_impl")
    vars(network)["_compiled_call_impl"] = partial(answer, own or network._call_impl)
    try:
        yield
    finally:
        del vars(network)["_compiled_call_impl"]
        if own is not None:
            vars(network)["_compiled_call_impl"] = own


@contextmanager
def route_calls(
    network: nn.Module,
    negative: nn.Module,
    guided: bool,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[None]:
    """Inside, calls of the network are answered as `Routing` says; afterwards it is as it was.

    Args:
        negative: another network, or the same one.
        guided: see `Routing`, as `around`.
    """
    positive: Any = vars(network).get("_compiled_call_impl") or network._call_impl
    inner, other = uncompiled_network(network), uncompiled_network(negative)
    first, turns = isinstance(inner, CONDITIONAL_FIRST), isinstance(inner, TAKING_TURNS)
    routing = Routing(positive if negative is network else negative, guided, around, first, turns)
    with ExitStack() as stack:
        stack.enter_context(answer_calls(network, routing.answer))
        if isinstance(inner, CacheMixin):
            others = other.cache_context if isinstance(other, CacheMixin) and other is not inner else None
            vars(inner)["cache_context"] = partial(routing.naming, inner.cache_context, others)
            stack.callback(vars(inner).pop, "cache_context")
        yield


def arguments_of(pipeline: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of a pipeline of diffusers, defaults included, whatever mixins stand before it."""
    theirs = (kind for kind in type(pipeline).__mro__ if kind.__module__.startswith("diffusers."))
    stock = next(vars(kind)["__call__"] for kind in theirs if "__call__" in vars(kind))
    bound = inspect.signature(stock).bind(pipeline, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def uncompiled_network(network: nn.Module) -> Any:
    """What `torch.compile(network)` wraps."""
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def call_network(network: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    args, kwargs = arguments
    return network(*args, **kwargs)


def take_half(tree: Any, rows: int, half: slice, of_lists: bool = False) -> Any:
    """One half of every tensor with that many rows, however deep: IP-adapters pass lists, ControlNets tuples.

    Args:
        of_lists: whether a list of that many is a batch, too.
    """
    if isinstance(tree, Tensor):
        return tree[half] if tree.ndim and len(tree) == rows else tree
    if isinstance(tree, dict):
        return {
            name: value if name in UNBATCHED else take_half(value, rows, half, of_lists)
            for name, value in tree.items()
        }
    if of_lists and isinstance(tree, list) and len(tree) == rows:
        return tree[half]
    if isinstance(tree, list | tuple):
        return type(tree)(take_half(value, rows, half, of_lists) for value in tree)
    return tree


def join_answers(first: Any, second: Any) -> Any:
    """Both answers as one batch, in the form that they have: a tuple, diffusers' output object, or a list of rows."""
    if isinstance(first, list):
        return first + second
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    if isinstance(first, dict):
        return type(first)(**{name: join_answers(value, second[name]) for name, value in first.items()})
    return tuple(join_answers(*both) for both in zip(first, second, strict=True))
