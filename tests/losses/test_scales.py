"""What turns likelihoods into rewards is positive: 0 teaches nothing, and less to prefer the rejected side."""

import math
from dataclasses import fields, is_dataclass
from importlib import import_module
from pkgutil import walk_packages

import pytest

import diffpo
from diffpo.core.objective import Objective
from diffpo.core.pair import PairLoss
from diffpo.core.refusal import Refusal
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.mapo import MaPO
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.combined import Confidence
from diffpo.losses.logistic import Sigmoid

for package in ("losses", "diffusion.methods", "text.methods", "text"):
    folder = import_module(f"diffpo.{package}")
    for module in walk_packages(folder.__path__, f"{folder.__name__}."):
        import_module(module.name)


def under(kind: type) -> set[type]:
    return {kind, *(found for sub in kind.__subclasses__() for found in under(sub))}


OURS = sorted(
    (
        kind
        for kind in under(PairLoss) | under(Objective)
        if kind.__module__.startswith(diffpo.__name__) and not kind.__abstractmethods__ and is_dataclass(kind)
    ),
    key=lambda kind: (kind.__module__, kind.__name__),
)
SCALED = [kind for kind in OURS if any(field.name == "beta" for field in fields(kind))]


def test_the_list_is_not_empty():
    assert len(SCALED) > 20


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [kind for kind in SCALED if kind is not DSPO])
def test_a_beta_is_positive(kind, beta):
    with pytest.raises(Refusal, match=rf"^{kind.__name__} needs a positive beta, got {beta}; "):
        kind(beta=beta)


def test_dspo_is_sft_at_0_and_nothing_below():
    assert DSPO(beta=0.0).beta == 0
    with pytest.raises(Refusal, match=r"DSPO.beta must be at least 0, got -0.1"):
        DSPO(beta=-0.1)


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan])
def test_other_scales_are_positive(number):
    with pytest.raises(Refusal, match="Confidence needs a positive gamma"):
        Confidence(Sigmoid(), gamma=number)
    with pytest.raises(Refusal, match="MaPO needs a positive snr"):
        MaPO(snr=number)
    with pytest.raises(Refusal, match="MaPO needs a positive timesteps"):
        MaPO(timesteps=0)
    with pytest.raises(Refusal, match="DenoisingPreference needs a positive scale"):
        DenoisingPreference(scale=number)
