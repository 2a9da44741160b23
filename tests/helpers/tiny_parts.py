"""Objectives that bring a part of their own to the network that is trained."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from diffpo.core.objective import Step
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.text.objective.preference import SequencePreference

PART = "loudness"


def attached(policy: Any) -> None:
    part = nn.Linear(1, 1)
    nn.init.ones_(part.weight)
    nn.init.zeros_(part.bias)
    policy.add_module(PART, part)


def louder(step: Step, network: Any) -> Step:
    """The loss times what the part makes of it."""
    return step._replace(loss=network.get_submodule(PART)(step.loss.reshape(1, 1)).squeeze())


@dataclass(frozen=True)
class LouderPictures(DenoisingPreference):
    def attach(self, policy: Any, seed: int) -> None:
        attached(policy)

    def __call__(self, policy, reference, batch, draws) -> Step:
        return louder(super().__call__(policy, reference, batch, draws), policy.unet)


@dataclass(frozen=True)
class LouderTexts(SequencePreference):
    def attach(self, policy: Any, seed: int) -> None:
        attached(policy)

    def __call__(self, policy, reference, batch, draws) -> Step:
        return louder(super().__call__(policy, reference, batch, draws), policy)
