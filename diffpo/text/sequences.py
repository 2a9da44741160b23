"""Token log-likelihoods of completions, and how they add up to one number for each."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from diffpo.core import PairLabels
from diffpo.refusal import Refusal
from diffpo.text.output_layer import LOGITS, output_logps


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Candidates of b prompts, tokenised and padded on the right.

    Attributes:
        ids: tokens of prompt and completion.
        attended: tokens that are no padding.
        scored: tokens whose likelihood counts: those of the completion.
        part: number, from 1, of the part of the completion that a token belongs to (turn, step or marked span); 0
            elsewhere.
        label: what the data say.
        row: id of each row.
        epoch: of each row.
        inputs: what else the network is given, e.g. `pixel_values`; of most networks, with k * b rows.
        notes: what was done to the texts that a run reports, and how often.
    """

    ids: Int[Tensor, "k b s"]
    attended: Bool[Tensor, "k b s"]
    scored: Bool[Tensor, "k b s"]
    part: Int[Tensor, "k b s"]
    label: PairLabels
    row: tuple[int, ...]
    epoch: tuple[int, ...]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """The same batch with each tensor changed, e.g. moved to a device."""
        return replace(
            self,
            ids=change(self.ids),
            attended=change(self.attended),
            scored=change(self.scored),
            part=change(self.part),
            label=self.label.map(change),
            inputs={name: change(tensor) for name, tensor in self.inputs.items()},
        )

    def best(self) -> "TokenBatch":
        """The first candidate of each row alone."""
        label = PairLabels(self.label.prob, self.label.score[:1], self.label.weight)
        inputs = {name: tensor[0] for name, tensor in self.inputs_by_candidate().items()}
        first = {name: x[:1] for name, x in vars(self).items() if name in ("ids", "attended", "scored", "part")}
        return replace(self, label=label, inputs=inputs, **first)

    def inputs_by_candidate(self) -> dict[str, Shaped[Tensor, "k b *rest"]]:
        """`inputs` with the candidates apart.

        Raises:
            Refusal: if one has not a row per candidate, as the patches of Qwen-VL's pictures.
        """
        k, b = self.ids.shape[:2]
        if odd := [name for name, tensor in self.inputs.items() if len(tensor) != k * b]:
            raise Refusal(
                f"{odd[0]} has {len(self.inputs[odd[0]])} rows for {k * b} candidates, so some cannot be taken "
                "out; choose an objective that reads all candidates (MDPO), or a base like LLaVA."
            )
        return {name: tensor.unflatten(0, (k, b)) for name, tensor in self.inputs.items()}

    def pin_memory(self) -> "TokenBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "TokenBatch":
        return self.map(lambda x: x.to(device, non_blocking=True))


def token_logps(model: nn.Module, batch: TokenBatch, at_once: int = LOGITS) -> Float[Tensor, "k b t"]:
    """log p(token | earlier tokens) in fp32, t = s - 1 predictions, zero where a token is not scored.

    Only scored tokens get logits, some at a time, and the backward pass computes them anew, so that memory does not
    grow with tokens x vocabulary (`output_logps`). The output layer does this inside the network's own forward pass,
    which every wrapper (DDP, FSDP2) therefore sees; what comes out as logits are the log-likelihoods.

    Args:
        model: a causal language model whose output layer is the last thing it does (`require_plain_head`).
        at_once: logits that are held at a time.
    """
    targets, scored = batch.ids.flatten(0, 1)[:, 1:], batch.scored.flatten(0, 1)[:, 1:]
    head = extract_model_from_parallel(model).get_output_embeddings()
    plain = head.forward

    def likelihoods(states: Float[Tensor, "n s h"]) -> Float[Tensor, "n s 1"]:
        found = output_logps(head, plain, states[:, :-1][scored], targets[scored], at_once)
        spread = found.new_zeros(states.shape[:2])
        spread[:, :-1] = found.new_zeros(scored.shape).masked_scatter(scored, found)
        return spread[..., None]

    with forward_as(head, likelihoods):
        out = forward(model, batch)
    return out[:, :-1, 0].float().unflatten(0, batch.ids.shape[:2])


def token_logits(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "k b t v"]:
    """Logits over the whole vocabulary in fp32, for methods that need the distribution of each token."""
    return forward(model, batch)[:, :-1].float().unflatten(0, batch.ids.shape[:2])


def forward(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "n s v"]:
    ids, attended = batch.ids.flatten(0, 1), batch.attended.flatten(0, 1).long()
    return model(input_ids=ids, attention_mask=attended, use_cache=False, **batch.inputs).logits


@contextmanager
def forward_as(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the module computes something else."""
    own = vars(module).get("forward")  # on the instance, if a library hooked it
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@torch.no_grad()
def require_plain_head(model: nn.Module, device: torch.device | str = "cpu") -> None:
    """Raise a Refusal if the network does something to its logits, or reads them elsewhere than we do."""
    ids = torch.arange(8, device=device).reshape(1, 1, 8)
    whole = torch.ones_like(ids, dtype=torch.bool)
    batch = TokenBatch(ids, whole, whole, ids, PairLabels.hard(1, device), (0,), (0,))
    ours = token_logps(model, batch)
    theirs = token_logits(model, batch).log_softmax(-1).gather(-1, ids[..., 1:, None]).squeeze(-1)
    apart = (ours - theirs).abs().max().item()
    if not apart < 0.1:
        raise Refusal(
            f"{type(model).__name__} changes its logits after the output layer (log-likelihoods by {apart:.2g}) "
            "as models with soft-capped or scaled logits do; name another base."
        )


class Reduce(ABC):
    """How tokens add up."""

    @abstractmethod
    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        """How much each predicted token counts in the log-likelihood of its completion."""


@dataclass(frozen=True)
class SumTokens(Reduce):
    """Each token of the completion counts alike."""

    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        return batch.scored[..., 1:].float()


@dataclass(frozen=True)
class Desensitised(Reduce):
    """Tokens beyond the length of the shortest candidate of the row count `alpha` (LD-DPO, arXiv:2409.06411).

    Args:
        alpha: 1 is the plain sum; the paper takes 0.3 to 0.6.
    """

    alpha: float = 0.5

    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        scored = batch.scored[..., 1:].float()
        public = scored.sum(-1, keepdim=True).amin(0)
        return scored * torch.where(scored.cumsum(-1) <= public, 1.0, self.alpha)
