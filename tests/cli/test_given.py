from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from jsonargparse import Namespace
from torch import nn
from torch.optim import Optimizer

from diffpo.cli.command import parse
from diffpo.cli.given import require_given
from diffpo.commands import train as train_diffusion_dpo
from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class Shown:
    every: int
    side: int | None = None
    steps: int = 3


@dataclass(frozen=True)
class Trained:
    shown: Shown | None = None
    all: list[Shown] = field(default_factory=list)


def program(
    trained: Trained,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    implicit: int = None,  # type: ignore[assignment]  # as others write it
    unsaid=3,
    settings: str = "",
) -> None: ...


@pytest.mark.parametrize(
    ("chosen", "place"),
    [
        ({"trained": Namespace(shown=Namespace(every=None))}, "trained.shown.every"),
        ({"trained": Namespace(shown=Namespace(every=1, steps=None))}, "trained.shown.steps"),
        ({"trained": Namespace(all=[Namespace(every=1), Namespace(every=None)])}, r"trained.all\[1\].every"),
        ({"trained": None}, "trained"),
        ({"optimizer": Namespace(class_path="torch.optim.SGD", init_args=Namespace(lr=None))}, "optimizer.lr"),
        ({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": None}}}, "optimizer.lr"),
    ],
)
def test_null_where_a_value_has_to_be_is_named(chosen, place):
    with pytest.raises(Refusal, match=f"^{place} is null, which it cannot be; give it a value"):
        require_given(program, chosen)


@pytest.mark.parametrize(
    "chosen",
    [
        {"trained": Namespace(shown=None), "optimizer": None, "implicit": None, "unsaid": None},
        {"trained": Namespace(shown=Namespace(every=1, side=None))},
        {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"foreach": None}}},
        {"optimizer": {"class_path": "torch.optim.SGD"}},
    ],
)
def test_null_where_it_means_something_passes(chosen):
    require_given(program, chosen)


def test_a_command_line_is_looked_at():
    with pytest.raises(Refusal, match=r"^preview.every is null"):
        parse(train_diffusion_dpo.main, ["--config=configs/quickstart.yaml", "--preview.every=null", "--output_dir=x"])
