"""What a language model knows at a token: the states that enter its output layer, for parts that an objective adds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import forward_as, forward_logits

Look = Callable[[Float[Tensor, "n s h"]], Tensor]


@contextmanager
def watch_states(model: nn.Module, look: Look) -> Iterator[list[Tensor]]:
    """Inside, `look` sees the states (n, s, h) of each forward pass of a language model; the list holds what it says.

    It looks within the network's own forward pass, so a part of the network may be used there, whatever wraps it.
    """
    found: list[Tensor] = []
    handle = head_of(model).register_forward_pre_hook(lambda _, inputs: found.append(look(inputs[0])))
    try:
        yield found
    finally:
        handle.remove()


def read_states(model: nn.Module, batch: TokenBatch, look: Look) -> Float[Tensor, "n c"]:
    """What `look` says of the states (n = k b, s, h) of a batch, in a forward pass that computes no logits."""
    with forward_as(head_of(model), lambda states: look(states).unsqueeze(1)):
        return forward_logits(model, batch).squeeze(1)


def take_at(states: Float[Tensor, "n s h"], position: Int[Tensor, "k b"]) -> Float[Tensor, "k b h"]:
    """The state of each candidate at one position."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows, position.flatten()].unflatten(0, position.shape)


def find_last(batch: TokenBatch) -> Int[Tensor, "k b"]:
    """Position of the last token."""
    return batch.attended.sum(-1) - 1


def before_completion(batch: TokenBatch) -> Int[Tensor, "k b"]:
    """Position of the last token of the prompt: of what comes before the first token that is scored."""
    return (batch.scored.int().argmax(-1) - 1).clamp(min=0)


def attach_part(policy: Any, name: str, part: nn.Module) -> None:
    """Make a part a submodule of a network, trained in fp32 on the network's device.

    Raises:
        Refusal: if the network has such a part already.
    """
    if name in dict(policy.named_children()):
        raise Refusal(f"The network has a part {name!r} already; train one that was loaded anew.")
    policy.add_module(name, part.to(device=next(policy.parameters()).device, dtype=torch.float32))


def part_of(model: nn.Module, name: str) -> nn.Module:
    """What `attach_part` added to a network, which training may have wrapped since.

    Raises:
        Refusal: if nothing was.
    """
    parts = dict(extract_model_from_parallel(model).named_children())
    if name not in parts:
        raise Refusal(f"The network has no part {name!r}; call objective.attach(policy, seed) before training.")
    return parts[name]


def head_of(model: nn.Module) -> nn.Module:
    return extract_model_from_parallel(model).get_output_embeddings()


def own_rate(policy: Any, name: str, lr: float) -> list[Any]:
    """Groups for an optimizer (`Objective.trained`) in which an attached part has its own learning rate: fine-tuning
    moves a network by less than a new part has to move."""
    others = [p for at, p in policy.named_parameters() if p.requires_grad and not at.startswith(f"{name}.")]
    return [{"params": others}, {"params": [*part_of(policy, name).parameters()], "lr": lr}]
