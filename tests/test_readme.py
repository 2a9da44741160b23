"""What README has to name."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_named(extra):
    assert f"`.[{extra}]`" in README


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_is_named(script):
    is_builder = script.name.startswith("build_") and "build_*.py" in README
    assert script.name in README or is_builder


@pytest.mark.parametrize("grid", sorted((ROOT / "configs" / "evidence").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_is_named_or_has_its_table(grid):
    assert f"configs/evidence/{grid.name}" in README or f"<!-- evidence: {grid.stem} -->" in README


def test_what_security_names_exists():
    security = (ROOT / "SECURITY.md").read_text()
    names = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", security)
    assert len(names) >= 8
    assert all(list((ROOT / "tests").rglob(Path(name).name)) for name in names)
    assert "`SECURITY.md`" in README
