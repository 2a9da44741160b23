"""Where reference likelihoods come from: a reference evaluates a scoring function under frozen weights."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import gather_tensor, reshard

Score = Callable[[nn.Module], Tensor]
SCORES, NOISE = "scores", "noise"  # what a reference is asked for


class Reference(ABC):
    """Frozen weights that a score is computed under, without gradient."""

    @abstractmethod
    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        """What `score` says of the frozen network.

        Args:
            what: name of what is asked for; only a reference that tells answers apart reads it.
        """

    def at(self, draws: Draws | None) -> None:
        """Called before each batch with its draws, or None if it is not trained on; only a reference that remembers
        what it said of which pair overrides it."""

    def after_step(self, policy: nn.Module) -> None:
        """Called by `fit` on every process with the unwrapped policy, whose weights may be split over processes, after
        each optimiser step; only moving references override it."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold; empty for weights that never move."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


class FrozenCopy(Reference):
    """A second network, copied from the policy as it is now: full fine-tuning.

    A policy that is sharded later (FSDP2) leaves the copy whole on every device: more memory, less communication.

    Args:
        storage: weights of linear and convolution layers are stored in this type. Under autocast to the same type this
            halves the memory of the copy and changes no bit, because autocast rounds just those weights anyway.
    """

    def __init__(self, policy: nn.Module, storage: torch.dtype | None = None):
        self.model = copy.deepcopy(policy).requires_grad_(False).eval()
        if storage is not None:
            store_matrices(self.model, storage)

    @torch.no_grad()
    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        return score(self.model)

    def beside(self, policy: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """The copy's parameters and the policy's as they are now; every process has to go through all of them.

        What an objective has attached to the policy since, the copy has not.
        """
        theirs = dict(policy.named_parameters())
        for name, mine in self.model.named_parameters():
            yield mine, gather_tensor(theirs[name])


def store_matrices(model: nn.Module, dtype: torch.dtype, kept: Iterable[nn.Module] = ()) -> None:
    """Store the frozen weights that autocast would round (linear and convolution layers) in `dtype`; others stay.

    So do frozen adapters: they are small, and the norms of a DoRA are computed in the type of its weights, which has
    to be that of the trained one's.

    Args:
        kept: layers that stay as they are, too: those that are quantized.
    """
    kept = set(kept)
    for name, module in model.named_modules():
        matrix = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if matrix and module not in kept and not module.weight.requires_grad and ".lora_" not in name:
            module.to(dtype)


class Ema(FrozenCopy):
    """A copy that follows the policy with an exponential moving average (TR-DPO, arXiv:2404.09656, soft update)."""

    def __init__(self, policy: nn.Module, decay: float = 0.999):
        super().__init__(policy)
        self.decay = decay

    @torch.no_grad()
    def after_step(self, policy: nn.Module) -> None:
        for mine, theirs in self.beside(policy):
            mine.lerp_(theirs, 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


class ReferenceMixture(Reference):
    """sum_k w_k log p_k of several references, not normalised: in a pair, a constant of the prompt cancels.

    Log-likelihoods are mixed, not weights: the references are asked one after the other. INPO (arXiv:2407.00617) is
    `diffpo.losses.IPO` of beta eta on tau/eta of the base and 1 - tau/eta of the policy that answered.

    Raises:
        Refusal: if weights are not one for each, in [0, 1], and add up to 1: margins would not begin at 0.
    """

    def __init__(self, references: Sequence[Reference], weights: Sequence[float]):
        fits = len(references) == len(weights) > 0 and all(0 <= weight <= 1 for weight in weights)
        if not fits or abs(sum(weights) - 1) > 1e-6:
            raise Refusal(
                f"ReferenceMixture needs a weight in [0, 1] for each reference, which add up to 1, got "
                f"{len(references)} and {list(weights)}."
            )
        self.references, self.weights = list(references), list(weights)

    @torch.no_grad()
    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        if what != SCORES:
            raise Refusal(f"ReferenceMixture mixes log-likelihoods, not {what}; take one reference here.")
        asked = zip(self.references, self.weights, strict=True)
        return sum((weight * one(score) for one, weight in asked if weight), torch.tensor(0.0))

    def at(self, draws: Draws | None) -> None:
        for one in self.references:
            one.at(draws)

    def after_step(self, policy: nn.Module) -> None:
        for one in self.references:
            one.after_step(policy)

    def state_dict(self) -> dict[str, Any]:
        held = {str(k): one.state_dict() for k, one in enumerate(self.references)}
        return {k: state for k, state in held.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for k, one in enumerate(self.references):
            one.load_state_dict(state.get(str(k), {}))


class SwitchedOff(Reference):
    """The policy itself with its trained part disabled (LoRA adapters, a user branch): no second network.

    Args:
        off: context manager inside which the model behaves as the reference, e.g.
            `diffpo.train.adapters.adapters_off`.
    """

    def __init__(self, policy: nn.Module, off: Callable[[nn.Module], AbstractContextManager]):
        self.model = policy
        self.off = off

    @torch.no_grad()
    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        reshard(self.model)
        with self.off(self.model):
            scores = score(self.model)
            reshard(self.model)  # or the switch back would leave weights that are still gathered without gradient
        return scores
