"""The index of methods: every class has its row, and tags from a closed list."""

import importlib

import pytest
from pages import ROOT, read_tables

PAGE = (ROOT / "docs" / "methods.md").read_text()
AXES = {
    "data": {
        *("heterogeneity", "distinguishability", "noise", "pointwise", "pairwise", "listwise"),
        *("token", "step", "sentence", "turn", "timestep"),
    },
    "framework": {"offline", "multi-objective"},
    "constraint": {"reference-frozen", "reference-moving", "reference-free", "divergence"},
    "property": {"distribution shift", "length bias", "likelihood collapse", "alignment tax"},
}
TABLES = {tuple(head): rows for head, *rows in read_tables(PAGE)}
LIST = dict(TABLES["axis", "tags"])
TAGS = {row[0].strip("`"): row[1:] for row in TABLES["class", "data", "framework", "constraint", "property"]}
ROOMS = ("diffpo.losses", "diffpo.diffusion.methods", "diffpo.text.methods")


def parts() -> set[str]:
    """Classes that a method is made of, and roles: named on the page, without tags."""
    rows = [row for head, *rows in read_tables(PAGE) if head[0] == "part" for row in rows]
    return {named for row in rows for named in row[0].replace("`", "").split(", ")}


def split(cell: str) -> set[str]:
    return {tag for part in cell.split(";") for tag in part.replace(",", "\n").split("\n") if tag.strip()}


def stripped(cell: str) -> set[str]:
    return {tag.strip() for tag in split(cell)}


def test_the_list_of_tags_is_closed():
    assert {axis: stripped(tags) for axis, tags in LIST.items()} == AXES


@pytest.mark.parametrize("room", ROOMS)
def test_every_method_of_a_room_has_tags_or_is_a_part(room):
    handed = set(importlib.import_module(room).__all__)
    tagged = {path.rpartition(".")[2] for path in TAGS if path.rpartition(".")[0] == room}
    assert handed - tagged - parts() == set()
    assert tagged - handed == set()
    assert not tagged & parts()


@pytest.mark.parametrize("path", TAGS)
def test_tags_are_of_their_axis_and_say_what_is_compared(path):
    said = dict(zip(AXES, map(stripped, TAGS[path]), strict=True))
    assert all(tags <= AXES[axis] for axis, tags in said.items())
    assert said["data"] & {"pointwise", "pairwise", "listwise"}
    assert "offline" in said["framework"]


@pytest.mark.parametrize("path", TAGS)
def test_every_method_is_told_of_besides_its_tags(path):
    before, _, _ = PAGE.partition("## Tags")
    assert path.rpartition(".")[2] in before


def test_losses_without_a_reference_are_tagged_so():
    room = importlib.import_module("diffpo.losses")
    for path, (_, _, constraint, _) in TAGS.items():
        place, _, called = path.rpartition(".")
        needs = getattr(room, called, None).__dict__.get("needs_reference", True) if place == room.__name__ else None
        if needs is False:
            assert "reference-free" in constraint, path
