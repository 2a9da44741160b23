"""What a grid of runs is, as its YAML says it."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from diffpo.core.refusal import Refusal
from diffpo.storage.files import in_one_line

SCRIPT = "scripts/train_diffusion_dpo.py"
ALSO = ("--preview=null", "--evaluation.base_pictures={output}/base")
ASPECTS = {"attributes": "{:.1%}", "style": "{:.3f}", "diversity": "{:.3f}"}


@dataclass(frozen=True)
class Tune:
    """What is tried before the runs, on development prompts.

    Args:
        seed: of these runs.
        values: method: argument: what is tried of it; of two arguments, each value of one with each of the other.
        also: further overrides of these runs, by which development prompts judge them.
        by: what decides: the mean utility, or the win rate over the base, ties half. A utility that punishes some
            pictures hard, as those without a clean object, may choose otherwise than people would by comparing.
        unseen: differences of utility up to this are ties in that win rate; without it, a model that hardly differs
            from the base, but always to one side, wins all.
        follow: method: another one that is tuned, whose best values it takes over.
    """

    seed: int
    values: dict[str, dict[str, list[str | bool | int | float | None]]]
    also: list[str] = field(default_factory=list)
    by: Literal["utility", "win_rate"] = "utility"
    unseen: float = 0.0
    follow: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compare:
    """What is evaluated together after the runs, for a second table.

    Args:
        config: one of scripts/evaluate.py.
        models: name: fields of diffpo.diffusion.ComparedModel, the base first; where one names `{seed}`, there is one
            model for each seed.
    """

    config: str
    models: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """Users who judge alike models.

    Args:
        models: name: fields of diffpo.diffusion.UserModel.
        overrides: of scripts/evaluate_users.py.
    """

    models: dict[str, dict[str, Any]]
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AskUsers:
    """Who judges the runs of each seed instead of the oracle.

    Args:
        config: one of scripts/evaluate_users.py.
        groups: a table for each.
    """

    config: str
    groups: dict[str, Group]


@dataclass(frozen=True)
class Program:
    """What runs, and the config that it begins with.

    Args:
        script: one of ours.
        config: of that script.
    """

    script: str
    config: str


@dataclass(frozen=True)
class Grid:
    """Methods and seeds, and what all their runs have in common.

    In overrides and command lines `{output}` is the folder of the grid, `{scores}` that of the scores.json of its
    pairs.

    Args:
        config: of every run.
        methods: name: overrides.
        seeds: of the runs of each method.
        baseline: the method that is SFT on winners.
        rival: another method that all are compared with, too.
        script: what runs.
        others: methods that another script runs, as offline training beside rounds; what its config says otherwise
            than `config`, the method has to name.
        also: overrides of every run, in place of those that suit runs on pictures.
        measure: further overrides of the runs of the table, e.g. what else is measured; runs that tune go without.
        prepare: command lines of our scripts that run first.
        score: a config of scripts/score_pairs.py: all runs read pairs that are scored once.
        encode: a config of scripts/encode_pairs.py: all runs read pairs that are encoded once, from the scored ones if
            there are any.
        cost: whether the evaluations of the network that a pair of one training step takes are counted for a column.
        aspects: numbers of a model in a report, and the formats of the table's columns; utility is the oracle's mean.
        tune: what is tried first; null tunes nothing.
        compare: null is no second table; models that mix a negative network in are rows of it.
        users: null is the oracle.
        unseen: a further column has the win rate over the base in which differences of utility up to this are ties.
        by_round: numbers of a model in a report, each a column that tells it of the base and after each round; the
            evaluation has to measure the rounds.
        win_rates: whether the table has win rates; false where the oracle's utility is not what runs learn.
    """

    config: str
    methods: dict[str, list[str]]
    seeds: list[int]
    baseline: str
    rival: str | None = None
    script: str = SCRIPT
    others: dict[str, Program] = field(default_factory=dict)
    also: list[str] = field(default_factory=lambda: [*ALSO])
    measure: list[str] = field(default_factory=list)
    prepare: list[str] = field(default_factory=list)
    score: str | None = None
    encode: str | None = None
    cost: bool = False
    aspects: dict[str, str] = field(default_factory=lambda: {**ASPECTS})
    tune: Tune | None = None
    compare: Compare | None = None
    users: AskUsers | None = None
    unseen: float | None = None
    by_round: list[str] = field(default_factory=list)
    win_rates: bool = True

    def program_of(self, method: str) -> Program:
        return self.others.get(method, Program(self.script, self.config))

    @property
    def reads(self) -> list[str]:
        """What makes runs read the pairs that are scored or encoded first."""
        if self.encode is not None:
            return reading("diffpo.diffusion.EncodedPairs", "{output}/encoded")
        return [] if self.score is None else reading("diffpo.data.Columns", "{output}/scored")

    def said(self) -> dict[str, Any]:
        """All that differs from the defaults, for the record."""
        plain = Grid(self.config, {}, [], "")
        named = [of.name for of in fields(self) if getattr(self, of.name) != getattr(plain, of.name)]
        said = {name: value for name, value in asdict(self).items() if name in {"config", *named}}
        if self.tune and self.tune.by == "utility":
            del said["tune"]["by"]
        if self.tune and not self.tune.unseen:
            del said["tune"]["unseen"]
        if self.tune and not self.tune.follow:
            del said["tune"]["follow"]
        return said


PARTS = {"tune": Tune, "compare": Compare, "users": AskUsers}


def reading(reader: str, folder: str) -> list[str]:
    return [f"--data.source={reader}", f"--data.source.path={folder}"]


def read_grid(file: Path) -> Grid:
    """The grid in a YAML file.

    Raises:
        Refusal: if it cannot be read, lacks something, or says what no grid knows.
    """
    try:
        return check_grid(yaml.safe_load(file.read_text()))
    except (OSError, UnicodeError, yaml.YAMLError, ArgumentError) as error:
        raise Refusal(f"{file} is no grid ({in_one_line(error)}); correct it, see configs/evidence.") from error


def check_grid(said: Any) -> Grid:
    """A grid of what a YAML says.

    Raises:
        ArgumentError: if that is none.
    """
    for name, part in PARTS.items():  # alone: of one that may be null, jsonargparse tells in ten lines what is wrong
        if isinstance(said, dict) and said.get(name) is not None:
            checked(part, name, said[name])
    return checked(Grid, "grid", said)


def checked(kind: type, name: str, said: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    return vars(parser.instantiate(parser.parse_object({name: said})))[name]
