"""jsonargparse's errors in one line; the messages are its own, of a parser as ours are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from diffpo.cli.causes import name_cause


@dataclass(frozen=True)
class Sigmoid:
    """A loss."""

    beta: float
    kind: Literal["plain", "robust"] | None = None


@dataclass(frozen=True)
class Objective:
    """With a part that may be missing, and one of its own that may, too."""

    loss: Sigmoid | None = None
    scale: float | None = None
    losses: list[Sigmoid] = field(default_factory=list)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"scale": "x"}, "objective.scale: expected float or null, got x"),
        ({"loss": {"beta": "x"}}, "objective.loss.beta: expected float, got x"),
        ({"loss": {}}, "objective.loss (tests.cli.test_causes.Sigmoid): the following arguments are required: beta"),
        ({"loss": {"beta": 1, "kind": "odd"}}, "objective.loss.kind: expected plain, robust or null, got odd"),
        (
            {"loss": {"beta": 1, "betta": 2}},
            "objective.loss (tests.cli.test_causes.Sigmoid): Option 'betta' is not accepted",
        ),
    ],
)
def test_the_cause_is_told_in_one_line(said, cause):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective | None)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_object({"objective": said})
    assert name_cause(caught.value.message) == cause


@dataclass(frozen=True)
class Prompts:
    """Of an evaluation."""

    path: str


class Evaluation:
    """One kind of several."""


@dataclass(frozen=True)
class SideBySide(Evaluation):
    """With a part of its own."""

    prompts: Prompts


class Optimizer:
    """Made of parameters."""


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            ["--evaluation=tests.cli.test_causes.SideBySide", "--evaluation.prompts=5"],
            "evaluation.prompts: Unable to load config '5'",
        ),
        (
            ["--optimizer=tests.cli.test_causes.Sigmoid"],
            "optimizer: expected a subclass of Optimizer, got tests.cli.test_causes.Sigmoid",
        ),
    ],
)
def test_the_cause_of_a_wrong_word_names_its_option_and_no_annotation(words, cause):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--evaluation", type=Evaluation | None)
    parser.add_argument("--optimizer", type=Callable[[list[int]], Optimizer])
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(words)
    assert name_cause(caught.value.message) == cause


@pytest.mark.parametrize("message", ["unrecognized arguments: --fit.stepz", "two\nlines of another kind"])
def test_what_is_told_otherwise_stays(message):
    assert name_cause(message) == message
