"""Memory of tuning a base of the real size, computed: nothing is loaded or downloaded.

diffpo benchmark count flux1-dev
diffpo benchmark count --page docs/bases.md
"""

import argparse
import re
from pathlib import Path

from diffpo.lab.benchmark.cost.bases import count_ways, write_table
from diffpo.lab.benchmark.cost.published_bases import BASES

MARK = "<!-- counted by diffpo benchmark count -->"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser("diffpo benchmark count", description=__doc__)
    parser.add_argument("base", nargs="*", help=f"one or more of {', '.join(BASES)}; without one, all")
    parser.add_argument("--page", type=Path, help="gets the table between its marks")
    asked = parser.parse_args(words)
    if unknown := [name for name in asked.base if name not in BASES]:
        parser.error(f"no base {unknown[0]!r} is counted; there are {', '.join(BASES)}.")
    table = write_table({name: count_ways(BASES[name]) for name in asked.base or BASES})
    print(table)
    if asked.page:
        before, _, after = re.split(re.escape(MARK), asked.page.read_text())
        asked.page.write_text(f"{before}{MARK}\n\n{table}\n\n{MARK}{after}")
