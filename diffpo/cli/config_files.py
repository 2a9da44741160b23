"""The YAML files of a command line: one mapping each, in which no key is said twice."""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from diffpo.core.refusal import Refusal


def require_readable(path: str) -> None:
    """Raise a Refusal, with the file's name, if it cannot be a config; what is no file is left to the parser."""
    if not os.path.isfile(path):  # pathlib's raises where a text is too long for a name
        return
    try:
        tree = yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise Refusal(f"Config {path} cannot be read ({error.strerror}); get the right to read it.") from error
    except UnicodeDecodeError as error:
        raise Refusal(f"Config {path} is no text in UTF-8 ({error}); save it as such.") from error
    except yaml.YAMLError as error:
        raise Refusal(f"Config {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, MappingNode):
        kind = {SequenceNode: "a list", ScalarNode: f"the text {str(tree and tree.value)[:40]!r}"}
        raise Refusal(
            f"Config {path} holds {kind.get(type(tree), 'nothing')}; a config is `option: value`, line by line."
        )
    if (twice := next(find_repeated(tree), None)) is not None:
        line = twice.start_mark.line + 1
        raise Refusal(f"Config {path} says {twice.value!r} twice in one place, again in line {line}; keep one.")


def find_repeated(tree: Node) -> Iterator[ScalarNode]:
    """Keys that stand in their mapping once more; YAML lets the last one win."""
    for node in walk_nodes(tree):
        if isinstance(node, MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, ScalarNode)]
            yield from (key for n, key in enumerate(keys) if key.value in [before.value for before in keys[:n]])


def walk_nodes(tree: Node) -> Iterator[Node]:
    """Every node once, also where a part is used in several places, or within itself."""
    seen, left = set[int](), [tree]
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            if isinstance(node, SequenceNode):
                left += node.value
            elif isinstance(node, MappingNode):
                left += [part for pair in node.value for part in pair]
