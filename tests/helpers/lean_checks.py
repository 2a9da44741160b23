"""Checks of types and shapes in all functions of a package, as jaxtyping's import hook makes them, at less cost.

The hook compiles two checks for each function that is made, inner ones at each call anew, and binds the arguments of
each call, since shapes may be named anywhere. Here only functions that name shapes are checked so; others are checked
by beartype alone, and an inner function the first time that it is made.
"""

import inspect
from functools import partial
from types import CodeType, FunctionType
from typing import Any, ForwardRef, get_args

import jaxtyping
from beartype import beartype
from beartype.roar import BeartypeException
from jaxtyping import AbstractArray, install_import_hook

check_shapes: Any = jaxtyping.jaxtyped
made = set[CodeType]()


def check_package(name: str) -> None:
    """Check all modules of a package that are imported from now on."""
    jaxtyping.jaxtyped = check
    install_import_hook(name, "beartype.beartype")


def check(function: Any = None, *, typechecker: Any) -> Any:
    """In the place of `jaxtyping.jaxtyped`, which decorates what the hook finds."""
    if function is None:
        return partial(check, typechecker=typechecker)
    if not isinstance(function, FunctionType):
        return check_shapes(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        if function.__code__ in made:
            return function
        made.add(function.__code__)
    if inspect.isgeneratorfunction(function) or any(map(names_shapes, function.__annotations__.values())):
        return check_shapes(function, typechecker=typechecker)
    try:
        return beartype(function)
    except BeartypeException:
        return check_shapes(function, typechecker=typechecker)


def names_shapes(hint: Any) -> bool:
    """Whether a hint is of an array, or a name that may be of one."""
    if isinstance(hint, str | ForwardRef):
        return True
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(names_shapes, hint if isinstance(hint, list) else get_args(hint)))
