"""The moving reference of "Rethinking DPO in diffusion models"."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.core.references import SCORES, FrozenCopy, Score
from diffpo.core.refusal import Refusal
from diffpo.diffusion.objective.preference import mean_over_processes


class BoundedUpdates(FrozenCopy):
    """A reference that becomes the policy every `tau` steps, until it has left the base by more than `delta`.

    Then it stands still, where it is (arXiv:2505.18736, section 3.1). The divergence of reference and base is the
    paper's (eq. 8): how far the denoising error on preferred pictures of the training batch has risen. Here those of
    the step after an update are taken, all of them over all processes and at the noise and times of training, so each
    update costs one forward pass, and the unit of `delta` is that of the curve mse/chosen_minus_reference. The paper
    prints neither the constant in front of its unit nor how many pictures it takes. Keeps three networks in memory.

    What it is asked for has to be the errors of shape (k, b), chosen first, that `DenoisingPreference` and `KTO` ask.

    Args:
        tau: 16, 32 or 64 in the paper, the best for each base.
        delta: 0.005 for SD1.5 and 0.002 for SDXL in the paper.

    Raises:
        Refusal: if `tau` is not positive.
    """

    def __init__(self, policy: nn.Module, tau: int = 32, delta: float = 0.005):
        if tau < 1:
            raise Refusal(f"BoundedUpdates needs a tau of at least 1, got {tau}.")
        super().__init__(policy)
        self.base = copy.deepcopy(self.model)
        self.tau, self.delta = tau, delta
        self.steps, self.unmeasured, self.held = 0, False, False
        self.drifts: list[Tensor] = []

    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        if what != SCORES:
            return super().__call__(score)
        training = torch.is_grad_enabled()  # what validation asks must not move the reference
        with torch.no_grad():
            errors = score(self.model)
            if errors.ndim != 2:
                raise Refusal(
                    f"BoundedUpdates needs errors of shape (k, b), this objective asks for {tuple(errors.shape)}; use "
                    "it with diffpo.diffusion.DenoisingPreference or diffpo.diffusion.methods.KTO."
                )
            if training and self.unmeasured:
                self.drifts.append((errors[0] - score(self.base)[0]).mean())
        return errors

    @torch.no_grad()
    def after_step(self, policy: nn.Module) -> None:
        if self.drifts:
            drift = mean_over_processes(torch.stack(self.drifts).mean())
            self.held, self.unmeasured = bool(drift > self.delta), False
            self.drifts.clear()
        self.steps += 1
        if not self.held and self.steps % self.tau == 0:
            for mine, theirs in self.beside(policy):
                mine.copy_(theirs)
            self.unmeasured = True

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "steps": self.steps,
            "unmeasured": self.unmeasured,
            "held": self.held,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.steps, self.unmeasured, self.held = state["steps"], state["unmeasured"], state["held"]
