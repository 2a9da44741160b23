"""The one error that is the user's to mend."""

import math


class Refusal(ValueError):
    """An input, a file or a machine that a run cannot work with: one line that names the cause, then the remedy.

    Command lines print a refusal as that line; every other exception is a fault of the program and keeps its
    traceback.
    """

    def __str__(self) -> str:
        """The line; a DataLoader's worker puts its whole traceback before it."""
        text = super().__str__()
        first, *rest = text.rstrip().splitlines() or [text]
        return rest[-1].partition(": ")[2] if rest and first.startswith("Caught ") else text


def require_at_least(least: int, **numbers: float | int | None) -> None:
    """Raise a Refusal if one of some numbers, by name, is smaller; None is not asked for."""
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise Refusal(f"{name} must be at least {least}, got {number}.")


def require_positive(asker: object, **numbers: float | int) -> None:
    """Raise a Refusal if one of some numbers, by name, is not positive and finite."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise Refusal(f"{type(asker).__name__} needs a positive {name}, got {number}; raise it, or leave it out.")
