"""What is checked of functions while tests run."""

from collections.abc import Iterator

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from lean_checks import check
from torch import Tensor

from diffpo.core.pair import PairLogps
from diffpo.core.refusal import require_at_least

checked = check(typechecker=beartype)


def double(x: int) -> int:
    return "22" if x == 22 else 2 * x  # type: ignore[return-value]


def add(one: Float[Tensor, " b"], other: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return one + other[: len(one)]


def walk(some: list[Float[Tensor, " b"]]) -> Iterator[int]:
    yield from range(len(some))


def test_types_are_checked_of_arguments_and_of_what_comes_back():
    assert checked(double)(2) == 4
    for wrong in ("a", 22):
        with pytest.raises(BeartypeCallHintViolation):
            checked(double)(wrong)


def test_shapes_are_checked_across_arguments():
    assert len(checked(add)(torch.ones(2), torch.ones(2))) == 2
    with pytest.raises(TypeCheckError):
        checked(add)(torch.ones(2), torch.ones(3))


def test_arguments_of_a_generator_are_checked_when_it_is_called():
    with pytest.raises(TypeCheckError):
        checked(walk)(torch.ones(2))


def test_an_inner_function_is_checked_the_first_time_that_it_is_made():
    def make():
        @checked
        def inner(x: int) -> int:
            return x

        return inner

    with pytest.raises(BeartypeCallHintViolation):
        make()("a")
    assert make()("a") == "a"


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError):
        PairLogps(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3))
    with pytest.raises(BeartypeCallHintViolation):
        require_at_least("1", x=2)  # type: ignore[arg-type]
