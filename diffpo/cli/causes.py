"""What jsonargparse says of a wrong option, in one line: where it stands, and what is wrong with it."""

import re
from dataclasses import dataclass, field

UNION = "Does not validate against any of the Union subtypes"
EXPECTED, GIVEN = "Expected a ", "Given value: "
TYPES = f"{EXPECTED}<", f"{EXPECTED}typing."
CALLABLE = r"(?:Type .* expects a function or a callable class: )?"
KEY = re.compile(CALLABLE + r'Parser key "([^"]+)":\s*(.*)')
CLASS = re.compile(r"Problem with given class_path '([^']+)':\s*(.*)")
SUBCLASS = re.compile(r"^Expected '([^']+)' to be a subclass of (<class '[^']+'>)\.$")
AGAIN = re.compile(r"\. Got value: Namespace\(.*")  # the whole callable, behind the value of its argument


@dataclass
class Branch:
    """A line of an error, and those that are set further in below it."""

    text: str
    below: list["Branch"] = field(default_factory=list)


def name_cause(message: str) -> str:
    """The same error in one line; one that is told in another way stays as it is.

    Where null is allowed, jsonargparse lists why it is neither null nor what else it may be, and repeats the value at
    every level.
    """
    first, *more = read_branches(message)
    if more or not KEY.match(first.text):
        return message
    return find_cause(first, [], None)


def read_branches(message: str) -> list[Branch]:
    top, opened = Branch(""), list[tuple[int, Branch]]()
    for line in message.rstrip().splitlines():
        depth, said = len(line) - len(line.lstrip()), Branch(line.strip().removeprefix("- "))
        while opened and opened[-1][0] >= depth:
            opened.pop()
        (opened[-1][1] if opened else top).below.append(said)
        opened.append((depth, said))
    return top.below


def find_cause(said: Branch, place: list[str], named: str | None) -> str:
    """Follow the keys and classes of an error to where nothing lies below."""
    if found := KEY.match(said.text):
        place, named, rest = [*place, *([] if place[-1:] == [found[1]] else [found[1]])], None, found[2]
    elif found := CLASS.match(said.text):
        named, rest = found[1], found[2]
    else:
        return place_cause(place, named, " ".join([said.text, *(one.text for one in said.below)]))
    below = [Branch(rest, said.below)] if rest else said.below
    if below and below[0].text == UNION:
        return find_in_union(below[1:], place)
    if len(below) > 1 and (key := KEY.fullmatch(below[0].text)) and not below[0].below:  # of what is no file
        inside = place[-1:] == [key[1]]
        return place_cause(place if inside else [*place, key[1]], named if inside else None, below[1].text)
    return find_cause(below[0], place, named) if below else place_cause(place, named, said.text)


def find_in_union(below: list[Branch], place: list[str]) -> str:
    """Of all that a value is not, the first that says why; of plain types, which they are."""
    errors = [one for said in below if said.text == "Errors:" for one in said.below]
    for one in errors:
        if CLASS.match(one.text) or KEY.match(one.text):
            return find_cause(one, place, None)
    wanted = [name_type(one.text.removeprefix(EXPECTED)) for one in errors if one.text.startswith(TYPES)]
    given = next((said.text.removeprefix(GIVEN) for said in below if said.text.startswith(GIVEN)), "")
    return place_cause(place, None, f"expected {' or '.join(wanted)}, got {AGAIN.sub('', given)}")


def name_type(said: str) -> str:
    """`<class 'int'>` as int, a literal as its values."""
    if found := re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", said):
        return "null" if found[1] == "NoneType" else found[1]
    if found := re.fullmatch(r"typing\.Literal\[(.*)\]", said):
        return found[1].replace("'", "")
    return said


def place_cause(place: list[str], named: str | None, cause: str) -> str:
    cause = AGAIN.sub("", re.sub(f"^{CALLABLE}", "", cause))
    cause = SUBCLASS.sub(lambda found: f"expected a subclass of {name_type(found[2])}, got {found[1]}", cause)
    plain = re.sub(r"^Expected a (\S.*?)\. Got value: ", lambda f: f"expected {name_type(f[1])}, got ", cause)
    return f"{'.'.join(place)}{f' ({named})' if named else ''}: {plain}"
