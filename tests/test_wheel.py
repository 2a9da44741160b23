"""What an installed wheel holds: the package, the recipes and the quick starts' worlds, from their one place."""

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MOST = 25 * 2**20  # bytes


def tracked(*places: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def shipped():
    """Places in the repository, with those in the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]


def test_it_holds_all_of_the_package_and_what_travels_with_it_and_no_more(wheel, shipped):
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    places = {name: name for name in tracked("diffpo")}
    places |= {name: name.replace(source, there, 1) for source, there in shipped.items() for name in tracked(source)}
    assert held == set(places.values())
    assert all(ZipFile(wheel).read(there) == (ROOT / here).read_bytes() for here, there in places.items())


def test_it_is_small(wheel):
    assert wheel.stat().st_size < MOST


def test_it_brings_the_command(wheel):
    files = ZipFile(wheel)
    entry = next(name for name in files.namelist() if name.endswith("entry_points.txt"))
    assert "diffpo = diffpo.__main__:main" in files.read(entry).decode()


@pytest.mark.parametrize("recipe", ["quickstart.yaml", "text/quickstart.yaml"])
def test_what_a_quick_start_reads_travels(recipe, shipped):
    def paths(tree):
        if isinstance(tree, dict):
            tree = list(tree.values())
        if isinstance(tree, list):
            return [found for branch in tree for found in paths(branch)]
        return [tree] if isinstance(tree, str) and tree.startswith("assets/") else []

    named = paths(yaml.safe_load((ROOT / "configs" / recipe).read_text()))
    assert named
    assert all(any(f"{path}/".startswith(f"{source}/") for source in shipped) for path in named)
