import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "diffpo").rglob("*.py"))
TRACKS = ("diffusion", "text", "tinyworld")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def imports_from(path: Path, package: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for module in imported(path))


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=name)
def test_a_module_has_its_test_file(path):
    mirrored = ROOT / "tests" / path.relative_to(ROOT / "diffpo")
    assert mirrored.with_name(f"test_{path.name}").exists()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=name)
def test_init_files_are_empty_but_the_top_one(path):
    assert path.parent.name == "diffpo" or not path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_are_absolute_and_by_name(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 0 for node in nodes)
    assert not any(alias.name == "*" for node in nodes for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_package_does_not_know_its_scripts_and_tests(path):
    assert not any(imports_from(path, package) for package in ("scripts", "tests", "tiny"))


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "diffpo"], ids=name)
def test_what_is_shared_does_not_know_the_tracks(path):
    assert not any(imports_from(path, f"diffpo.{track}") for track in TRACKS)


@pytest.mark.parametrize("path", [path for path in MODULES if {"diffusion", "text"} & {*path.parts}], ids=name)
def test_a_track_does_not_know_the_tiny_world(path):
    assert not imports_from(path, "diffpo.tinyworld")


@pytest.mark.parametrize("path", [path for path in MODULES if "text" in path.parts], ids=name)
def test_the_text_track_does_not_know_the_image_track(path):
    assert not imports_from(path, "diffpo.diffusion")


@pytest.mark.parametrize("path", [path for path in MODULES if "diffusion" in path.parts], ids=name)
def test_the_image_track_does_not_know_the_text_track(path):
    assert not imports_from(path, "diffpo.text")


def test_the_core_loads_no_modeling_library():
    """In a process of its own: here they are loaded already."""
    program = """
import sys
import diffpo.core.objective, diffpo.core.draws, diffpo.data.row_maps, diffpo.losses.combined, diffpo.core.references, diffpo.data.rows
print(*sorted({name.split(".")[0] for name in sys.modules} & {"diffusers", "transformers", "torchvision", "peft"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
