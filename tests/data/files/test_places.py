import os
import random
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from diffpo.data.files.places import Outside, find_inside, list_roots


@pytest.fixture
def folder(tmp_path):
    """A folder of data with a file in it and one beside it, and links to both."""
    for name in ("data/deep/in.png", "out.png", "database/out.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, to in (("in", "data/deep/in.png"), ("out", "out.png"), ("above", ".")):
        (tmp_path / "data" / f"link_{link}").symlink_to(tmp_path / to)
    return tmp_path / "data"


@pytest.mark.parametrize("path", ["deep/in.png", "./deep/../deep/in.png", "link_in", "{}/deep/in.png", "new.png"])
def test_what_lies_in_the_folder_is_found_there(folder, path):
    place = find_inside(folder, path.format(folder))
    assert place.is_relative_to(folder)
    assert place.exists() == (path != "new.png")


@pytest.mark.parametrize(
    "path", ["../out.png", "link_out", "link_above/out.png", "{}/../out.png", "/etc/passwd", "deep/../../out.png"]
)
def test_what_lies_elsewhere_is_refused_with_the_remedy(folder, path):
    with pytest.raises(Outside, match=f"lies outside of {folder}; let the source's `images` name a folder that holds"):
        find_inside(folder, path.format(folder))


def test_a_folder_whose_name_begins_alike_is_another(folder):
    with pytest.raises(Outside):
        find_inside(folder, "../database/out.png")


def test_a_relative_folder_is_where_the_program_stands(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    list_roots.cache_clear()
    assert find_inside(Path("data"), "deep/in.png") == folder / "deep" / "in.png"
    with pytest.raises(Outside):
        find_inside(Path("data"), str(folder.parent / "out.png"))


def test_what_came_from_the_hub_may_lie_in_its_caches(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    snapshot = tmp_path / "hub" / "snapshots"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "blob").touch()
    (snapshot / "a.png").symlink_to("../blob")
    list_roots.cache_clear()
    found = {find_inside(snapshot, "a.png"), find_inside(Path("owner/name"), str(snapshot / "a.png"))}
    assert found == {tmp_path / "hub" / "blob"}
    for data in (snapshot, Path("owner/name")):
        with pytest.raises(Outside):
            find_inside(data, str(tmp_path / "out.png"))
    with pytest.raises(Outside):
        find_inside(folder, str(tmp_path / "hub" / "blob"))


def test_no_random_path_leads_out(folder):
    rng, parts = random.Random(0), ["..", ".", "deep", "link_above", "link_out", "data", "out.png", "in.png", ""]
    for _ in range(2000):
        path = "/".join(rng.choices(parts, k=rng.randint(1, 6)))
        try:
            place = find_inside(folder, path)
        except Outside:
            continue
        assert os.path.realpath(folder / path) == str(place)
        assert place.is_relative_to(folder)
