"""What README and the pages say is there: links, commands, programs, options, names, numbers, messages."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache

import pytest
import yaml
from pages import PAGES, README, ROOT, find_anchors, name, read_commands, read_fences, read_links, read_prose

import diffpo
from diffpo.__main__ import VERBS
from diffpo.cli.command import CommandLine
from diffpo.cli.verbs import Verb, VerbGroup

TEXT = {page: page.read_text() for page in PAGES}
ALL = "\n".join(TEXT.values())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
COMMANDS = [(name(page), command) for page in PAGES for command in read_commands(page)]
PROGRAM = re.compile(
    r"(?:python scripts/|python -m diffpo |diffpo [a-z]|scripts/\S+\.py)[^*<]*"
)  # complete enough to be looked up
REMOTE = re.compile(
    r"""\ssrc=["']?(?:https?:)?//|<link[^>]*rel=["']?(?:stylesheet|preconnect)[^>]*href=["']?(?:https?:)?//"""
)
BLOCKS = [(page, block) for page in PAGES for block in read_fences(page, "python")]
SHARE = re.compile(r"\d+\.\d % \[\d+\.\d, \d+\.\d\]")
MEASURED = {name(page) for page in PAGES} - {"docs/results.md", "docs/data.md", "docs/text.md"}  # tables of their own


def test_readme_takes_two_minutes():
    assert len(TEXT[README].splitlines()) <= 250


def test_two_commands_of_readme_set_all_up():
    begun = [body for body in read_fences(README, "bash") if "-m venv" in body]
    assert len(begun) == 2
    assert "configs/quickstart.yaml" in begun[0]
    assert "pytest" in begun[1]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in read_links(page):
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), link
        assert not anchor or anchor in find_anchors(to), link


def test_every_page_is_in_the_navigation():
    told = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    leaves = re.findall(r"[\w/]+\.md", str(told))
    assert sorted(leaves) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES if page != README)


def test_what_is_cited_is_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (entry,) = read_fences(README, "bibtex")
    said = dict(re.findall(r"^  (\w+) = \{+([^{}]*)\}+,$", entry, re.MULTILINE))
    assert cited["version"] == diffpo.__version__
    assert said == {name: cited[name] for name in ("title", "version", "license")} | {
        "author": cited["authors"][0]["name"]
    }


def test_readme_leads_to_the_list_of_commands():
    assert "docs/index.md#the-commands" in read_links(README)


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_named(extra):
    assert f"`.[{extra}]`" in TEXT[README]


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_is_named(script):
    assert script.name in ALL


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_named(verb):
    assert re.search(rf"diffpo {verb}\b", ALL) or re.search(rf"scripts/{verb}\.py", ALL)


@pytest.mark.parametrize("grid", sorted((ROOT / "configs" / "evidence").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_is_named_or_has_its_table(grid):
    assert f"configs/evidence/{grid.name}" in ALL or f"<!-- evidence: {grid.stem} -->" in ALL


def test_tables_of_evidence_stand_on_one_page_each_between_its_two_marks():
    marks = {stem: ALL.count(f"<!-- evidence: {stem} -->") for stem in re.findall(r"<!-- evidence: (\w+) -->", ALL)}
    assert len(marks) >= 14
    assert set(marks.values()) == {2}
    assert TEXT[ROOT / "docs" / "results.md"].count("<!-- evidence:") == 2 * len(marks)
    assert "--readme README.md" not in ALL


@pytest.mark.parametrize("page", sorted(MEASURED))
def test_shares_with_intervals_are_those_of_the_results(page):
    results = re.sub(r"\s+", " ", TEXT[ROOT / "docs" / "results.md"])
    for share in SHARE.findall(re.sub(r"\s+", " ", (ROOT / page).read_text())):
        assert share in results or share in TEXT[ROOT / "docs" / "data.md"], share


def test_what_security_names_exists():
    security = (ROOT / "SECURITY.md").read_text()
    names = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", security)
    assert len(names) >= 8
    assert all(list((ROOT / "tests").rglob(named.rpartition("/")[2])) for named in names)
    assert "`SECURITY.md`" in TEXT[README]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    said = re.findall(r"`((?:diffpo|tests|configs|assets|scripts|docs)/[\w/.-]+)`", TEXT[page])
    assert all((ROOT / path).exists() for path in said), [path for path in said if not (ROOT / path).exists()]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{name(page)}-{n}" for n, (page, _) in enumerate(BLOCKS)])
def test_python_imports_what_is_there(page, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Import):
            assert all(importlib.import_module(alias.name) for alias in node.names)


@cache
def messages() -> list[str]:
    """Texts of the package; \0 is where values stand."""
    trees = [ast.parse(path.read_text(), str(path)) for path in (ROOT / "diffpo").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    formed = [node.values for node in nodes if isinstance(node, ast.JoinedStr)]
    return plain + ["".join(map(spell, parts)) for parts in formed]


def spell(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "\0"


def test_messages_of_troubleshooting_are_those_of_the_code():
    told = re.findall(r"^\| `([^`]+)`", TEXT[ROOT / "docs" / "troubleshooting.md"], re.MULTILINE)
    assert len(told) > 40
    for message in told:
        pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip(" .,;:")]
        assert any(re.search(".*".join(pieces), text, re.DOTALL) for text in messages()), message


def find_verb(words: list[str], verbs: dict) -> tuple[Verb, list[str]]:
    verb = verbs[words[0]]
    return find_verb(words[1:], dict(verb.verbs)) if isinstance(verb, VerbGroup) else (verb, words[1:])


def find_program(words: list[str]) -> tuple[Verb | None, list[str]]:
    """What a command line starts, and with which words; None if it is no program of ours."""
    words = [word.removeprefix(".venv/bin/") for word in words]
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]
    if words[:2] == ["accelerate", "launch"]:
        words = words[2:]
        if words[0] == "--config_file":
            assert (ROOT / words[1]).exists()
            words = words[2:]
    if words[0].startswith("python"):
        words = words[1:]
    if words[:2] == ["-m", "diffpo"]:
        words = words[1:]
    if words[0] == "diffpo":
        return find_verb(words[1:], VERBS)
    if not words[0].startswith("scripts/"):
        return None, words
    script = importlib.import_module(words[0].removeprefix("scripts/").removesuffix(".py"))
    if hasattr(script, "VERBS"):
        return find_verb(words[1:], script.VERBS) if words[1:] else (Verb(script.__name__, ""), [])
    return Verb(script.main.__module__, ""), words[1:]


@pytest.fixture
def parts_of_contributing(tmp_path, monkeypatch):
    """The file that its first block is said to be."""
    (tmp_path / "my_parts.py").write_text(read_fences(ROOT / "docs" / "contributing.md", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("parts_of_contributing")
@pytest.mark.parametrize(("page", "command"), dict.fromkeys(COMMANDS), ids=lambda said: said[:60])
def test_commands_are_understood(page, command):
    """By the parser that would read them: scripts, verbs, recipes, classes and options are there."""
    words = shlex.split(command)
    verb, rest = find_program(words)
    if verb is None:
        assert rest[0] in ("pip", "-m", "pytest", "mkdocs", "sbatch"), command
        assert rest[0] != "sbatch" or (ROOT / rest[1]).exists()
    elif verb.takes_words:
        assert not rest
    else:
        CommandLine(importlib.import_module(verb.module).main, rest, "diffpo")
        grids = [after for word, after in zip(rest, rest[1:], strict=False) if word == "--grid"]
        assert all((ROOT / grid).exists() for grid in grids)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_programs_that_are_named_in_passing_exist(page):
    for said in re.findall(r"`([^`\n]+)`", read_prose(page)):
        if PROGRAM.fullmatch(said):
            assert find_program(said.split())[0] is not None, said


def test_the_site_builds_and_asks_no_other_machine(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"\ssrc=[\"']?(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]*rel=[\"']?(?:stylesheet|preconnect)[^>]*href=[\"']?(?:https?:)?//", text), (
            page
        )
    for room in ("losses", "data", "diffusion.methods", "text.methods"):
        page = tmp_path / "api" / room.replace(".", "_") / "index.html"
        handed = importlib.import_module(f"diffpo.{room}").__all__
        assert all(f'id="diffpo.{room}.{handed_on}"' in page.read_text() for handed_on in handed)
