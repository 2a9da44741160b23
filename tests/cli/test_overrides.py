import random
from dataclasses import MISSING, dataclass, fields
from typing import Any

import pytest
import tiny_losses
import yaml

from diffpo.cli.command import CommandLine, launch
from diffpo.cli.overrides import flatten_config
from diffpo.core.objective import Objective
from diffpo.core.pair import PairLoss
from diffpo.data.layouts import Columns, PickAPicShards
from diffpo.data.source import Source
from diffpo.diffusion.methods.dcpo import DCPO
from diffpo.diffusion.methods.inpo import InPO
from diffpo.diffusion.methods.kto import KTO
from diffpo.diffusion.methods.npo import JointGuidance
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.methods.smpo import SmPO
from diffpo.diffusion.objective.inversion import ReferenceInversion
from diffpo.diffusion.objective.noising import ForwardNoise, Uniform
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.combined import LengthNormalised
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO

CONFIG = """
objective:
  class_path: diffpo.diffusion.DenoisingPreference
  init_args:
    loss: {class_path: diffpo.losses.Sigmoid, init_args: {beta: 500}}
    noising:
      class_path: diffpo.diffusion.ForwardNoise
      init_args: {times: {class_path: diffpo.diffusion.Uniform, init_args: {low: 100}}}
    guard: {mu: 0.2}
"""
METHODS = [DenoisingPreference, DCPO, SmPO, InPO, JointGuidance, SFT, KTO]
LOSSES: list[Any] = sorted(
    {type(loss) for loss in tiny_losses.SURROGATE + tiny_losses.PROBABILITY}, key=lambda c: c.__name__
)


def program(objective: Objective, source: Source | None = None, seed: int = 0, settings: str = "") -> None: ...


def loss_only(loss: PairLoss, settings: str = "") -> None: ...


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    return f"--config={tmp_path / 'config.yaml'}"


def chosen(*args: str, main=program):
    line = CommandLine(main, list(args))
    return next(iter(line.arguments().values())), line.dropped


def test_null_reaches_a_class_within_a_class(config):
    inner = "objective.noising.times"
    objective, dropped = chosen(config, f"--{inner}.high=500", f"--{inner}.high=null")
    assert objective.noising.times == Uniform(low=100)
    assert dropped == []
    with pytest.raises(SystemExit):
        chosen(config, f"--{inner}.nothing=null")


def test_a_subclass_keeps_what_it_does_not_declare_anew(config):
    objective, dropped = chosen(config, f"--objective={path_of(DCPO)}")
    assert objective == DCPO(**vars(chosen(config)[0]))
    assert dropped == []


def test_its_own_default_replaces_what_a_file_says_and_that_is_told(config):
    objective, dropped = chosen(config, f"--objective={path_of(InPO)}")
    assert objective == InPO(guard=chosen(config)[0].guard)
    assert dropped == [
        f"dropped by --objective={path_of(InPO)}: "
        "objective.loss.beta 500.0 -> 2000.0, "
        "objective.noising diffpo.diffusion.ForwardNoise -> diffpo.diffusion.PolicyInversion, "
        "objective.noising.times diffpo.diffusion.Uniform (gone), "
        "objective.noising.times.low 100 (gone)"
    ]


def test_the_way_back_keeps_as_much_as_the_way_there(config):
    args = f"--objective={path_of(JointGuidance)}", "--objective.guidance=3", f"--objective={path_of(InPO)}"
    objective, dropped = chosen(config, *args)
    assert objective == InPO(guard=chosen(config)[0].guard)
    assert dropped[1].startswith(f"dropped by {args[2]}: objective.guidance 3.0 (gone), objective.noising ")


def test_of_an_unrelated_class_everything_is_dropped_and_told(config):
    objective, [dropped] = chosen(config, f"--objective={path_of(SFT)}")
    assert objective == SFT()
    told = dropped.partition(": ")[2]
    assert [value.split()[0] for value in told.split(", ")] == [
        "objective.guard.mu",
        "objective.loss",
        "objective.loss.beta",
        "objective.noising.times.low",
    ]
    assert told.endswith("objective.noising.times.low 100 -> 0")


def test_what_a_later_argument_says_anew_is_not_dropped(config):
    later = f"--objective.loss={path_of(Sigmoid)}", "--objective.loss.beta", "500"
    _, [dropped] = chosen(config, f"--objective={path_of(InPO)}", *later)
    assert "objective.loss" not in dropped


def test_an_option_that_loses_to_a_file_after_it_is_told(config):
    args = f"--objective={path_of(DCPO)}", "--objective.loss.beta=7", "--objective.guard.mu=0.2", "--objective.scale=2"
    objective, dropped = chosen(*args, config)
    assert (objective.loss, objective.scale) == (Sigmoid(500.0), 2.0)
    assert dropped == [
        f"dropped by {config}: objective {path_of(DCPO)} -> diffpo.diffusion.DenoisingPreference, "
        "objective.loss.beta 7.0 -> 500.0"
    ]
    assert chosen(*args, config, *args)[1] == []


def test_a_loss_of_another_kind_inherits_no_beta(config):
    objective, dropped = chosen(config, f"--objective.loss={path_of(IPO)}")
    assert objective.loss == IPO()
    assert dropped == [f"dropped by --objective.loss={path_of(IPO)}: objective.loss.beta 500.0 -> 0.1"]


def test_an_explicit_null_needs_no_telling(config):
    objective, dropped = chosen(config, "--objective.guard=null")
    assert (objective.guard, dropped) == (None, [])


def test_defaults_that_nobody_wrote_are_neither_kept_nor_told():
    """So a config says what the same call of constructors says: the eta of InPO's own noising is 0.1."""
    noising = f"--objective.noising={path_of(ReferenceInversion)}"
    objective, dropped = chosen(f"--objective={path_of(InPO)}", noising)
    assert objective == InPO(noising=ReferenceInversion())
    assert dropped == []
    kept, _ = chosen(f"--objective={path_of(InPO)}", "--objective.noising.eta=0.1", noising)
    assert kept == InPO(noising=ReferenceInversion(eta=0.1))


def test_a_later_file_that_changes_a_class_is_told_by_its_name(config, tmp_path):
    (tmp_path / "more.yaml").write_text(
        f"objective: {{class_path: {path_of(DCPO)}, init_args: {{loss: {{class_path: {path_of(IPO)}}}}}}}"
    )
    more = f"--config={tmp_path / 'more.yaml'}"
    objective, dropped = chosen(config, more)
    assert objective == DCPO(IPO(), ForwardNoise(Uniform(low=100)), guard=chosen(config)[0].guard)
    assert dropped == [f"dropped by {more}: objective.loss.beta 500.0 -> 0.1"]


def test_a_later_file_that_names_a_value_below_the_class_wins(config, tmp_path):
    (tmp_path / "more.yaml").write_text(
        f"objective: {{class_path: {path_of(DCPO)}, init_args: {{loss: {{init_args: {{beta: 7}}}}}}}}"
    )
    objective, dropped = chosen(config, f"--config={tmp_path / 'more.yaml'}")
    assert objective == DCPO(Sigmoid(7.0), ForwardNoise(Uniform(low=100)), guard=chosen(config)[0].guard)
    assert dropped == []


def test_a_source_of_another_layout_keeps_where_the_data_are():
    args = "--objective", path_of(SFT), "--source", path_of(PickAPicShards), "--source.path", "pairs"
    line = CommandLine(program, [*args, "--source.label=x", "--source", path_of(Columns)])
    assert line.arguments()["source"] == Columns("pairs")
    assert line.dropped == [f"dropped by --source {path_of(Columns)}: source.label x (gone)"]


def numbers(cls: Any, rng: random.Random) -> dict[str, float]:
    """A value for each field with a number as default, which is nobody's default."""
    return {f.name: f.default * rng.uniform(0.3, 0.4) for f in fields(cls) if isinstance(f.default, float)}


@pytest.mark.parametrize("seed", range(12))
def test_of_any_two_losses_the_second_keeps_what_both_declare_once(seed):
    """A field is declared once where a class inherits it; what it declares itself, or has not, is dropped and told."""
    rng = random.Random(seed)
    old, new = rng.sample([cls for cls in LOSSES if cls.__name__ != "Sum"], 2)
    inner = {"inner": Sigmoid(0.125)} if "inner" in old.__dataclass_fields__ else {}
    said = numbers(old, rng)
    args = [f"--loss={path_of(old)}", *(f"--loss.{name}={value}" for name, value in said.items())]
    args += [f"--loss.inner={path_of(Sigmoid)}", "--loss.inner.beta=0.125"] if inner else []
    required = {f.name for f in fields(new) if f.default is MISSING and f.default_factory is MISSING}
    kept = {f.name for f in fields(new) if any(f is other for other in fields(old))}
    needed = [f"--loss.{name}={path_of(IPO)}" for name in required - kept]
    loss, dropped = chosen(*args, f"--loss={path_of(new)}", *needed, main=loss_only)
    held = {name: value for name, value in {**said, **inner}.items() if name in kept}
    assert loss == new(**held, **{name: IPO() for name in required - kept})
    told = "".join(dropped)
    assert all((f"loss.{name} {value}" in told) != (name in kept) for name, value in said.items())


@dataclass(frozen=True)
class Loud(LengthNormalised):
    """A wrapper of a user's own."""


def test_a_wrapper_keeps_what_another_one_wrapped():
    loss, dropped = chosen(
        f"--loss={path_of(LengthNormalised)}",
        f"--loss.inner={path_of(Sigmoid)}",
        "--loss.inner.beta=7",
        f"--loss={__name__}.Loud",
        main=loss_only,
    )
    assert (loss.inner, dropped) == (Sigmoid(7.0), [])


@pytest.mark.parametrize("first", range(len(METHODS)))
def test_whatever_replaces_an_objective_the_resolved_config_gives_the_same_run(first, config, tmp_path):
    old, new = METHODS[first - 1], METHODS[first]
    line = CommandLine(program, [config, f"--objective={path_of(old)}", f"--objective={path_of(new)}"])
    (tmp_path / "resolved.yaml").write_text(line.settings)
    assert CommandLine(program, [f"--config={tmp_path / 'resolved.yaml'}"]).settings == line.settings


def test_the_line_stands_on_stderr_before_the_run(config, monkeypatch, capsys):
    def main(objective: Objective, settings: str = "") -> None:
        print("it runs")

    override = f"--objective.loss={path_of(IPO)}"
    for rank, told in (("0", f"dropped by {override}: objective.loss.beta 500.0 -> 0.1\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr("sys.argv", ["program", config, override])
        launch(main)
        assert capsys.readouterr() == ("it runs\n", told)


def test_names_are_those_of_a_command_line():
    assert flatten_config(yaml.safe_load(CONFIG)) == {
        "objective": "diffpo.diffusion.DenoisingPreference",
        "objective.loss": "diffpo.losses.Sigmoid",
        "objective.loss.beta": 500,
        "objective.noising": "diffpo.diffusion.ForwardNoise",
        "objective.noising.times": "diffpo.diffusion.Uniform",
        "objective.noising.times.low": 100,
        "objective.guard.mu": 0.2,
    }
