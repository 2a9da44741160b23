import ast
import inspect
import subprocess
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from diffpo.cli import private
from diffpo.cli.private import parse_unfinished

PACKAGE = Path(private.__file__).parents[1]
AS_IT_COMES = """
import inspect
from jsonargparse import _typehints
own = _typehints.discard_init_args_on_class_path_change
print(len(inspect.signature(own).parameters), *_typehints.adapt_class_type.__code__.co_names)
"""


def test_private_names_of_jsonargparse_stand_in_one_file():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jsonargparse"):
                named = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert path == Path(private.__file__) or not any(name.startswith("_") for name in named), path


def test_what_keeps_arguments_of_a_replaced_class_is_still_called_by_that_name():
    """In a process of its own: here it is replaced already."""
    done = subprocess.run([sys.executable, "-c", AS_IT_COMES], capture_output=True, text=True, check=True)
    parameters, *called = done.stdout.split()
    assert int(parameters) == len(inspect.signature(private.forget_init_args).parameters)
    assert private.KEEPS in called


def test_a_command_line_that_lacks_an_argument_is_read():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--needed", type=int, required=True)
    parser.add_argument("--said", type=int)
    assert parse_unfinished(parser, ["--said=3"]).said == 3
