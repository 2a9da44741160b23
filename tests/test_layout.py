"""The house: what lies where, who may know whom, and by which names the rooms are known outside."""

import ast
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffpo"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
ROOMS = sorted(path for path in PACKAGE.rglob("__init__.py"))
FACES = [path for path in ROOMS if path.with_suffix(".pyi").exists()]
# Ground first: a room knows only those of floors below, and its own. Those of one floor do not know one another, but
# for the ground.
FLOORS = (
    ("core", "processes", "storage"),
    ("cli", "data", "losses"),
    ("evaluation",),
    ("lora", "scorers"),
    ("train",),
    ("annotators",),
    ("rounds",),
    ("diffusion", "text"),
    ("lab",),
    ("commands",),
)
GROUND = FLOORS[0]
TRACKS = {
    "diffusion": (
        *(
            "data",
            "base",
            "families",
            "model",
            "objective",
            "methods",
            "annotate",
            "encode",
            "pipelines",
            "evaluation",
            "users",
        ),
    ),
    "text": ("data", "model", "objective", "methods", "evaluation"),
}
CATALOGUES = {"families", "methods", "losses", "scorers", "commands"}  # of one role each, so they may hold more
MOST = 12  # modules of a folder
# Functions and classes of one name in two modules, each with its reason; any other name is that of one thing.
TRACK, WORLD = "the same of pictures and of texts", "the same of the world of shapes and of that of rewrites"
WORLDS = r"^diffpo\.lab\.(shapes|scenes|rewrites|users)\."  # what two of them call alike in one file plays one role
TWINS = {
    "main": "what a command starts",
    "SFT": TRACK,
    "DMPO": "two papers gave two methods one name: of pictures arXiv:2507.07510, of texts arXiv:2406.14868",
    "AllPairs": "each two of a group: of one that the data rank, and of one that a judge compares",
    "KTO": "on single pictures, and as a loss of pairs",
    "Example": TRACK,
    "load_base": TRACK,
    "load_tuned": TRACK,
    "front_matter": TRACK,
    "write_card": TRACK,
    "write_page": TRACK,
    "tell_pairs": TRACK,
    "published_name": "of weights, by each scorer whose published files call them otherwise",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def imported(path: Path) -> frozenset[str]:
    """Modules that a file imports, wherever in it; of a package's, what is taken from there."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    taken = {
        f"{node.module}.{alias.name}" if (ROOT / f"{node.module}".replace(".", "/")).is_dir() else f"{node.module}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return frozenset(plain | taken)


def own(path: Path) -> list[str]:
    return [module for module in imported(path) if module.startswith("diffpo.")]


def floor(room: str, floors: tuple) -> int:
    return next(n for n, rooms in enumerate(floors) if room == rooms or (isinstance(rooms, tuple) and room in rooms))


def folder(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def require_no_circle(edges: dict[str, set[str]]) -> None:
    try:
        list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@cache
def tested() -> frozenset[str]:
    """Modules that some test file imports."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py")]
    return frozenset(module for path in files for module in imported(path))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_tested_where_one_looks_for_it_or_by_another_file_that_imports_it(path):
    mirrored = ROOT / "tests" / path.relative_to(PACKAGE)
    assert mirrored.with_name(f"test_{path.name}").exists() or dotted(path) in tested()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", [*MODULES, *(ROOT / "scripts").glob("*.py")], ids=name)
def test_a_function_can_be_read_in_one_go(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 60, node.name


@pytest.mark.parametrize("path", ROOMS, ids=name)
def test_a_folder_can_be_seen_at_a_glance(path):
    modules = [module for module in path.parent.glob("*.py") if module != path]
    assert len(modules) <= MOST or path.parent.name in CATALOGUES


def test_a_name_is_that_of_one_thing():
    homes = defaultdict[str, set[str]](set)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                homes[node.name].add(re.sub(WORLDS, "diffpo.lab.", dotted(path)))
    twins = {shared: sorted(modules) for shared, modules in homes.items() if len(modules) > 1}
    assert {shared: modules for shared, modules in twins.items() if shared not in TWINS} == {}
    assert TWINS.keys() - twins.keys() == set()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_are_absolute_and_by_name(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 0 for node in nodes)
    assert not any(alias.name == "*" for node in nodes for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_lead_down(path):
    room = dotted(path).split(".")[1]
    for module in own(path):
        other = module.split(".")[1]
        if other == "__version__" or room == "__main__":
            continue
        below, here = floor(other, FLOORS), floor(room, FLOORS)
        assert other == room or below < here or (below == here == 0), module


@pytest.mark.parametrize("path", [path for path in MODULES if dotted(path).split(".")[1] in TRACKS], ids=name)
def test_imports_inside_a_track_lead_down(path):
    _, track, room, *_ = dotted(path).split(".")
    inside = [module.split(".")[2] for module in own(path) if module.startswith(f"diffpo.{track}.")]
    assert all(TRACKS[track].index(other) <= TRACKS[track].index(room) for other in inside)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_package_does_not_know_its_scripts_and_tests(path):
    outside = {file.stem for place in ("scripts", "tests/helpers") for file in (ROOT / place).glob("*.py")}
    assert not outside & {module.split(".")[0] for module in imported(path)}


def test_no_files_know_one_another_in_a_circle():
    names = {dotted(path) for path in MODULES}
    require_no_circle({dotted(path): {module for module in own(path) if module in names} for path in MODULES})


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_no_folders_know_one_another_in_a_circle(depth):
    edges = defaultdict[str, set[str]](set)
    for path in MODULES:
        here = folder(dotted(path.parent), depth)
        edges[here] |= {there for module in own(path) if (there := folder(dotted_folder(module), depth)) != here}
    edges = {room: {other for other in others if not within(room, other)} for room, others in edges.items()}
    require_no_circle({room: others - {f"diffpo.{ground}" for ground in GROUND} for room, others in edges.items()})


def dotted_folder(module: str) -> str:
    return module.rpartition(".")[0]


def within(room: str, other: str) -> bool:
    """Whether one lies in the other: a room knows what it holds, and what it holds knows the room's own files."""
    return f"{room}.".startswith(f"{other}.") or f"{other}.".startswith(f"{room}.")


@pytest.mark.parametrize("path", ROOMS, ids=name)
def test_init_files_are_faces_or_empty(path):
    text = path.read_text()
    if path in FACES and path.parent != PACKAGE:
        assert (
            text
            == "import lazy_loader as lazy\n\n__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)\n"
        )
    elif path.parent != PACKAGE:
        assert text == ""


@pytest.mark.parametrize("path", FACES, ids=name)
def test_all_that_a_face_hands_on_is_there(path):
    room = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    for handed in room.__all__:
        assert getattr(room, handed).__name__ == handed


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_import_from_where_a_name_is_defined(path):
    """Not from faces, which would load more than is needed, and in circles."""
    for module in own(path):
        assert module == "diffpo.__version__" or (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_class_paths_of_configs_and_pages_name_faces():
    said = re.compile(r"\bdiffpo(?:\.\w+)*\.[A-Z]\w*")
    pages = [*(ROOT / "configs").rglob("*.yaml"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    faces = {".".join(path.parent.relative_to(ROOT).parts) for path in FACES}
    found = {path.rpartition(".") for page in pages for path in said.findall(page.read_text())}
    assert len(found) > 100
    assert {room for room, _, _ in found} <= faces
    for room, _, handed in found:
        assert handed in importlib.import_module(room).__all__, f"{room}.{handed}"


@pytest.mark.parametrize(
    ("program", "without"),
    [
        ("import diffpo", "torch diffusers transformers peft torchvision"),
        (
            "import diffpo.core.objective, diffpo.core.draws, diffpo.core.references, diffpo.core.weights, "
            "diffpo.losses.combined, diffpo.data.row_maps, diffpo.data.rows",
            "diffusers transformers torchvision peft",
        ),
        ("from diffpo.losses import Sigmoid", "diffusers transformers torchvision peft"),
    ],
)
def test_what_is_asked_for_loads_no_more(program, without):
    """In a process of its own: here all is loaded already."""
    show = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{program}; {show}"], capture_output=True, text=True, cwd=ROOT)
    assert not set(done.stdout.split()) & set(without.split())
    assert done.returncode == 0, done.stderr
