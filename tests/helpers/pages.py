"""README and the pages under docs/, taken apart: their fences, links, anchors and tables."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read_fences(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def read_prose(page: Path) -> str:
    """A page without its fences."""
    return FENCE.sub("", page.read_text())


def read_links(page: Path) -> list[str]:
    """What it links to within the project."""
    return [link for link in LINK.findall(read_prose(page)) if "://" not in link]


def find_anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.+)$", read_prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def read_tables(text: str) -> list[list[list[str]]]:
    """Its tables: rows of cells, the head first."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines() if "|---" not in line]
        for block in blocks
    ]


def read_commands(page: Path) -> list[str]:
    """Each command of its bash fences, in one line."""
    lines = [line for body in read_fences(page, "bash") for line in body.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.sub(r"\s#\s.*", "", line).split("&&")]
    return [part for part in parts if part and not part.startswith("#")]
