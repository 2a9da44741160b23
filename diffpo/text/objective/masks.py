"""How much each token of a completion matters, as the reference's inner states tell it."""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import relu

from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import forward_as
from diffpo.text.model.states import attach_part, head_of, part_of

PART = "token_masks"


class Masks(NamedTuple):
    """Weights of the predicted tokens, not negative, zero where a token is not scored.

    Attributes:
        ratio: of their log-ratios.
        divergence: of the divergences at them.
        cost: what the loss of each pair pays for the masks.
    """

    ratio: Float[Tensor, "k b t"]
    divergence: Float[Tensor, "k b t"]
    cost: Float[Tensor, " b"]


class TokenMask(ABC):
    """Says which tokens matter."""

    @abstractmethod
    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch) -> Masks: ...

    def attach(self, policy: nn.Module, seed: int) -> None:
        """Give the policy what is trained of the mask; most have nothing."""


@dataclass(frozen=True)
class EveryToken(TokenMask):
    """All tokens alike: SparsePO with it is the first form of TDPO (arXiv:2404.11999)."""

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch) -> Masks:
        ones = batch.scored[..., 1:].float()
        return Masks(ones, ones, torch.zeros_like(ones[0, :, 0]))


@dataclass(frozen=True)
class ActivationMask(TokenMask):
    """MaPO, the mask without parameters of SparsePO (arXiv:2410.05102): tokens that excite the reference matter most.

    Each activation (the output of each attention and MLP block and of each layer, and the logits) is averaged over
    its width and scaled over the tokens of the completion so that the least is 0 and the greatest 1; the mask is the
    mean over the activations of a kind, then over kinds. A completion of one token has mask 0. The authors' code
    (github.com/huawei-noah/HEBO, SparsePO) also reads activations inside of the blocks, in copies of the networks'
    code, and standardizes before it scales, which changes nothing.

    Args:
        blocks: last names of the modules whose outputs are read, as the network calls them: `mlp` and `self_attn` in
            Llama, Qwen, Mistral and Gemma, `mlp` and `attn` in GPT-2.

    Raises:
        Refusal: if the network has no module of such a name.
    """

    blocks: tuple[str, ...] = ("mlp", "self_attn")

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch) -> Masks:
        mask = reference(lambda model: self.of(model, batch))
        return Masks(mask, mask, torch.zeros_like(mask[0, :, 0]))

    def of(self, model: nn.Module, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        scored = batch.scored[..., 1:]
        kinds: dict[str, list[Tensor]] = defaultdict(list)
        with self.watched(model, kinds):
            output = hidden_states(model, batch, mean_logit)
        kinds["layers"] = [hidden.float().mean(-1) for hidden in output.hidden_states[1:]]
        kinds["logits"] = [output.logits[..., 0].float()]
        predicted = ([x[:, :-1].unflatten(0, scored.shape[:2]) for x in kind] for kind in kinds.values())
        return torch.stack([torch.stack([scale_scored(x, scored) for x in kind]).mean(0) for kind in predicted]).mean(
            0
        )

    @contextmanager
    def watched(self, model: nn.Module, kinds: dict[str, list[Tensor]]) -> Iterator[None]:
        """Inside, each block's output, averaged over its width, is added to its kind."""
        with ExitStack() as hooks:
            for kind in self.blocks:
                blocks = [block for name, block in model.named_modules() if name.rpartition(".")[2] == kind]
                if not blocks:
                    raise Refusal(
                        f"ActivationMask finds no module named {kind!r} in {type(model).__name__}; set blocks to what "
                        "the network calls its attention and MLP blocks."
                    )

                def note(block: nn.Module, inputs: Any, output: Any, kind: str = kind) -> None:
                    kinds[kind].append((output[0] if isinstance(output, tuple) else output).float().mean(-1))

                for block in blocks:
                    hooks.callback(block.register_forward_hook(note).remove)
            yield


def scale_scored(x: Float[Tensor, "k b t"], scored: Bool[Tensor, "k b t"]) -> Float[Tensor, "k b t"]:
    """From 0 to 1 over the scored tokens of each completion; 0 if they are all the same."""
    low = x.masked_fill(~scored, math.inf).amin(-1, keepdim=True)
    high = x.masked_fill(~scored, -math.inf).amax(-1, keepdim=True)
    return ((x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)).where(scored, 0.0)


def hidden_states(model: nn.Module, batch: TokenBatch, look: Callable[[nn.Module, Tensor], Tensor]) -> Any:
    """The hidden states of all layers, that of the embeddings first; as logits, what `look` makes of the last."""
    head = head_of(model)
    ids, attended = batch.ids.flatten(0, 1), batch.attended.flatten(0, 1).long()
    asked = {"use_cache": False, "output_hidden_states": True, **batch.inputs}
    with forward_as(head, partial(look, head)):
        return model(input_ids=ids, attention_mask=attended, **asked)


def mean_logit(head: Any, states: Float[Tensor, "n s h"]) -> Float[Tensor, "n s 1"]:
    """Mean over the vocabulary, but for the constant that a bias adds."""
    return states.float() @ head.weight.float().mean(0)[:, None]


def no_logits(head: nn.Module, states: Float[Tensor, "n s h"]) -> Float[Tensor, "n s h"]:
    return states


@dataclass(frozen=True)
class LearnedMasks(TokenMask):
    """The trained masks of SparsePO (arXiv:2410.05102), one network for log-ratios and one for divergences.

    They read the reference's hidden states at the token and are trained with the policy, `MaskNetwork` being one. The
    loss of a pair pays l1 times the sum of both masks over all tokens, so many become exactly zero. Masks that are
    zero everywhere leave the loss at log 2 with no gradient: watch `mask/density`.

    Args:
        l1: 0.001 in the authors' settings for HH.
    """

    networks: ClassVar[int] = 2
    l1: float = 0.001

    def attach(self, policy: Any, seed: int) -> None:
        config, rng = policy.config.get_text_config(), torch.Generator().manual_seed(seed)
        shape = config.num_hidden_layers, config.hidden_size
        attach_part(policy, PART, nn.ModuleList(MaskNetwork(*shape, rng) for _ in range(self.networks)))

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch) -> Masks:
        scored = batch.scored[..., 1:]
        keep = scored.flatten(0, 1)

        def hidden(model: nn.Module) -> Float[Tensor, "layers n width"]:
            layers = hidden_states(model, batch, no_logits).hidden_states[1:]
            return torch.stack([layer[:, :-1][keep] for layer in layers]).float()

        inner = reference(hidden)
        blank = torch.zeros(scored.shape, device=inner.device)
        masks = [blank.masked_scatter(scored, network(inner)) for network in part_of(policy, PART).children()]
        return Masks(masks[0], masks[-1], self.l1 * torch.stack(masks).sum((0, 1, 3)))


@dataclass(frozen=True)
class CommonMask(LearnedMasks):
    """One trained network for log-ratios and divergences alike; it pays once."""

    networks: ClassVar[int] = 1


class MaskNetwork(nn.Module):
    """relu(sum_l v_l relu(w_l norm(h_l) + c_l)): a weight for each token from its hidden states h_1 ... h_L.

    norm is one LayerNorm for all layers. As in the authors' code but for two things: no dropout (theirs is 0.01), and
    v starts without negative numbers, because a network of L layers would start, once in 2^L, with masks of zeros and
    never leave them.
    """

    def __init__(self, layers: int, width: int, rng: torch.Generator):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.w = nn.Parameter((2 * torch.rand(layers, width, generator=rng) - 1) / math.sqrt(width))
        self.c = nn.Parameter((2 * torch.rand(layers, generator=rng) - 1) / math.sqrt(width))
        self.v = nn.Parameter(torch.rand(layers, generator=rng) / math.sqrt(layers))

    def forward(self, hidden: Float[Tensor, "layers n width"]) -> Float[Tensor, " n"]:
        heights = relu(torch.einsum("lnd,ld->ln", self.norm(hidden), self.w) + self.c[:, None])
        return relu((self.v[:, None] * heights).sum(0))
