"""What jsonargparse does and has no public name for, each with its reason; all that we take of its private names."""

from typing import Any

from jsonargparse import ArgumentParser, Namespace, _typehints

KEEPS = "discard_init_args_on_class_path_change"


def parse_unfinished(parser: ArgumentParser, args: list[str]) -> Namespace:
    """Parse a command line that may lack arguments.

    What earlier arguments have said is needed before later ones are read (`settle_overrides`), and every public method
    that reads arguments refuses a config that is not whole.
    """
    return parser.parse_args(args, _skip_validation=True)


def start_classes_from_their_defaults() -> None:
    """Have a newly chosen class start from its own defaults, not from same-named arguments of the class it replaces.

    jsonargparse keeps them, and no setting says otherwise: IPO chosen over Sigmoid would inherit beta = 5000, SGD the
    weight decay of AdamW. What two classes mean alike, `settle_overrides` says again.

    Raises:
        AttributeError: if a version of jsonargparse knows no such function; setting it would change nothing.
    """
    getattr(_typehints, KEEPS)
    setattr(_typehints, KEEPS, forget_init_args)


def forget_init_args(action: Any, previous: Namespace | dict | None, value: Namespace | dict) -> None:
    """In place of what keeps arguments that the new class takes, too."""
    if previous and "init_args" in previous and previous["class_path"] != value["class_path"]:
        previous["init_args"] = type(previous["init_args"])()
