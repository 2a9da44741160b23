"""The one error that is the user's to mend."""


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
