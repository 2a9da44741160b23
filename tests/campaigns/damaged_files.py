"""Every kind of file of every folder of work, damaged, and then read by what reads the folder.

python tests/campaigns/damaged_files.py --share 0 --each --seed 3

A try survives if the result is that of the whole folder, is told if a line names the file and what to do (or what was
done), and is silent if the result is another one without such a line, or if there is a traceback.
"""

import argparse
import json
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests.parent / "scripts"), *(str(tests / name) for name in ("", "helpers", "scripts"))]

import numpy as np
from campaigns.outcomes import Heard, Outcomes
from campaigns.work import FAR, WORKS, Reading, Work, stopped_after, world
from damage import emptied, flipped, removed, text

from diffpo.storage.digests import FILES
from diffpo.storage.ledger import IDENTITY

log = logging.getLogger(__name__)

# Taken as it is: a file whole of its kind that no list of digests, and no checksum, vouches for, such as the config of
# a run, which people may change, after a bit flip or an exchange. It then gives another result, as if it were meant.
ROWS = ("survived", "told", "taken as it is", "silent")
PASSING = {"seconds", "versions"}  # of a report: not what was found
PASSING_LINES = re.compile(rb"\| (pairs_per_second|\w*memory\w*) \|.*\n")  # of a model card


def halved(file: Path, seed: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


WAYS: dict[str, Callable[[Path, int], None]] = {
    function.__name__: function for function in (emptied, halved, flipped, text, removed)
}
EXCHANGED = "exchanged"  # for a file of the same kind of another run
UNSEEN = {flipped.__name__, EXCHANGED}
BY_CHANCE = UNSEEN  # other ways do the same with each seed


def kinds(folder: Path) -> dict[str, list[str]]:
    """Names of the files below a folder, by their names with all numbers left out."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = str(file.relative_to(folder))
            found.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return found


def results(reading: Reading, root: Path, work: Path) -> dict[str, bytes]:
    """What a program made of the folder, without what differs from run to run."""
    found = {}
    for glob in reading.results:
        place, _, pattern = glob.partition("/")
        start = {"work": work, "out": root / "out"}.get(place, root)
        for file in sorted(start.glob(pattern or place)):
            found[f"{place}/{file.name}"] = content(file)
    return found


def content(file: Path) -> bytes:
    if file.name == "report.json":
        return json.dumps({k: v for k, v in json.loads(file.read_bytes()).items() if k not in PASSING}).encode()
    if file.name == "README.md":
        return PASSING_LINES.sub(b"", file.read_bytes())
    return file.read_bytes()


@dataclass(frozen=True)
class Try:
    """One damage to one file, and one program that reads the folder then."""

    work: Work
    file: str
    way: str
    reading: str
    seed: int

    def __str__(self) -> str:
        return f"{self.work.name}/{self.file} {self.way} ({self.seed}), then {self.reading}"


class Bench:
    """Folders of work in a root; each try gets a fresh copy at its place, since what is in them may name that."""

    def __init__(self, root: Path):
        self.root, self.kept = root / "root", root / "kept"
        self.root.mkdir()
        self.kept.mkdir()
        world(self.root)
        self.expected: dict[tuple[str, str], dict[str, bytes]] = {}

    def build(self, work: Work) -> None:
        work.build(self.root, self.kept)
        for name in work.readings:
            self.restore(work)
            heard = self.read(work, name)
            assert not heard.fault and not heard.code, (work.name, name, heard)  # noqa: PT018
            self.expected[work.name, name] = results(work.readings[name], self.root, self.root / work.name)
            assert self.expected[work.name, name]

    def restore(self, work: Work) -> None:
        for rest in (self.root / work.name, *self.root.glob("out*")):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        shutil.copytree(self.kept / work.name, self.root / work.name)

    def read(self, work: Work, reading: str) -> Heard:
        with stopped_after(FAR):
            return work.readings[reading].program(self.root, self.root / work.name, self.root / "out")

    def damage(self, one: Try) -> bool:
        """Whether the file is another one now."""
        file, whole = self.root / one.work.name / one.file, self.kept / one.work.name / one.file
        if one.way == EXCHANGED:
            other = self.exchange(one)
            if other is None:
                return False
            shutil.copy(other, file)
        elif whole.stat().st_size or one.way == removed.__name__:
            WAYS[one.way](file, one.seed)
        return not file.exists() or file.read_bytes() != whole.read_bytes()

    def exchange(self, one: Try) -> Path | None:
        """A file of the same kind: of the other run, or else of another number."""
        names = kinds(self.kept / one.work.name)[re.sub(r"\d+", "#", one.file)]
        others = [
            self.kept / f"{one.work.name}-other" / one.file,
            *(self.kept / one.work.name / name for name in names),
        ]
        whole = (self.kept / one.work.name / one.file).read_bytes()
        others = [file for file in others if file.exists() and file.read_bytes() != whole]
        return others[one.seed % len(others)] if others else None

    def run(self, one: Try) -> tuple[str, str]:
        """What became of a try, and what was said; empty if the damage changes nothing."""
        self.restore(one.work)
        if not self.damage(one):
            return "", ""
        heard = self.read(one.work, one.reading)
        if heard.fault:
            return "silent", heard.fault
        try:
            found = {} if heard.code else results(one.work.readings[one.reading], self.root, self.root / one.work.name)
        except ValueError as error:
            return "silent", f"its result is damaged: {error}"
        if found == self.expected[one.work.name, one.reading]:
            return "survived", ""
        folder = (self.root / one.work.name / one.file).parent
        names = (Path(one.file).name, str(folder), folder.name, str(self.root / one.work.name))
        if heard.tells(*names):
            return "told", "; ".join(heard.lines)
        row = "silent" if heard.code or one.way not in UNSEEN or self.vouched(one) else "taken as it is"
        return row, "; ".join(heard.lines) or "another result"

    def vouched(self, one: Try) -> bool:
        """Whether something tells what a file has to hold: it is named with its digest, or is of a ledger."""
        whole = self.kept / one.work.name / one.file
        lists = [folder / FILES for folder in whole.parents if folder.is_relative_to(self.kept)]
        named = [json.loads(file.read_bytes())["files"] for file in lists if file.exists()]
        hidden = any(part.startswith(".") for part in Path(one.file).parts)
        is_named = any(name.endswith(whole.name) for some in named for name in some)
        return is_named or hidden or whole.name in (FILES, IDENTITY) or whole.name.startswith("part-")


def tries(bench: Bench, work: Work, share: float, seeds: int, rng: np.random.Generator, each: bool) -> Iterator[Try]:
    """A share of all combinations by chance, and at least one of each kind of file, or of kind, way and program."""
    for names in kinds(bench.kept / work.name).values():
        groups = [
            [Try(work, name, way, reading, seed) for name in names for seed in range(seeds if way in BY_CHANCE else 1)]
            for way in (*WAYS, EXCHANGED)
            for reading in work.readings
        ]
        for group in groups if each else [sum(groups, [])]:
            count = max(1, round(share * len(group)))
            for number in sorted(rng.choice(len(group), count, replace=False)):
                yield group[number]


def campaign(
    root: Path, share: float, seeds: int, seed: int = 0, works=WORKS, each=False, files: str = "", tell=None
) -> Outcomes:
    """Damage and read.

    Args:
        share: of all combinations of file, damage, program and seed.
        seeds: of damages that are drawn by chance, in each combination.
        each: try each kind of file in each way with each program that reads it, not each kind once.
        files: a pattern that is found in the names of those that are damaged.
        tell: gets each try with what became of it, and what was said.
    """
    outcomes, rng, bench = Outcomes(ROWS), np.random.default_rng(seed), Bench(root)
    for work in works:
        began = time.monotonic()
        bench.build(work)
        for one in tries(bench, work, share, seeds, rng, each):
            row, said = bench.run(one) if re.search(files, one.file) else ("", "")
            if row:
                outcomes.add(work.name.removesuffix(", half"), row, f"{one}: {said}")
                if tell:
                    tell(one, row, said)
        bench.restore(work)
        log.info(f"{work.name}: {time.monotonic() - began:.0f} s\n{outcomes}\n")
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--each", action="store_true", help="at least one try of each kind, way and program")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default="", help="a pattern of the names of those that are damaged")
    parser.add_argument("--works", nargs="*", default=[work.name for work in WORKS], help="in order; some read others")
    chosen = parser.parse_args()
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    with tempfile.TemporaryDirectory() as root:
        works = tuple(work for work in WORKS if work.name in chosen.works)
        outcomes = campaign(
            Path(root), chosen.share, chosen.seeds, chosen.seed, works, chosen.each, chosen.files, tell
        )
    print(outcomes)
    print("\n".join(outcomes.worst))
    return bool(outcomes.worst)


def tell(one: Try, row: str, said: str) -> None:
    if row == "silent":
        print(f"{one}: {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
