"""Programs run out of disk at moments of chance, and go on once there is room.

python tests/campaigns/full_disk.py TRIALS SEED (with . and tests and scripts on PYTHONPATH)

Nothing here needs a small disk: from some touch of its folder on, a program can let no file grow, or can make none, or
from its start no file can outgrow some size. Libraries that write past Python meet the first and the last, too.
"""

import random
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from campaigns.counts import Count, table
from campaigns.kill import TWICE, outcome, undisturbed
from campaigns.programs import Blow, Ended, Program, begin_anew
from campaigns.worlds import ALL, Work, differing, left_in, works

STILL = Blow("full", touch=1)  # somebody tries again and has made no room
BRIEF = 20  # touches of a folder, at most, in which others fill a disk that then has room again
SPARED = {  # what finished training does not end by: it is told, and is not there
    r"The metrics of step \d+ could not be written": "metrics.jsonl",
    r"The model card of \S+ could not be written": "README.md",
    r"The preview of step \d+ could not be written": "previews/",
    r"Checkpoint \d+ could not be written": "checkpoint-",
}


def filled(all_works: Mapping[str, Work], trials: Mapping[str, int], seed: int) -> dict[str, Count]:
    """What came of so many trials of each kind of work."""
    counts = {}
    for name, some in trials.items():
        work, count, rng = all_works[name], Count(), random.Random(f"{seed} {name}")
        whole, wanted, largest = undisturbed(work)
        for _ in range(some):
            blows = [chosen(whole, largest, rng), *([STILL] if rng.random() < TWICE else [])]
            count.add(*trial(work, blows, wanted, count))
        counts[name] = count
    return counts


def chosen(whole: Ended, largest: int, rng: random.Random) -> Blow:
    if (what := rng.choice(("full", "full", "crowded", ""))) == "":
        return Blow(room=round(largest ** rng.uniform(0, 1)))
    touch = rng.randint(1, whole.touches)
    return Blow(what, touch, until=rng.choice((0, 0, touch + rng.randint(1, BRIEF))))


def trial(work: Work, blows: Sequence[Blow], wanted: dict[str, Any], count: Count) -> tuple[str, str]:
    shutil.rmtree(work.folder, ignore_errors=True)
    said = []
    for number, blow in enumerate(blows):
        hit = Program(work, again=number > 0, blow=blow).end()
        said.append(f"{blow} ended {hit.code}: {hit.said[-3000:]}")
        if wrong := wrong_in(hit, work, wanted):
            return "silent", f"{wrong}: {said}"
        count.hit(hit.code)
        wanted = without_lost(wanted, hit)
    return outcome(Program(work, again=True).end(), work, wanted, said)


def wrong_in(hit: Ended, work: Work, wanted: dict[str, Any]) -> str:
    """What is wrong with how a program ended whose disk was full; empty if nothing is."""
    if hit.is_bare:
        return "a traceback"
    if hit.code:
        return "" if hit.is_told else f"ended with {hit.code} and no line"
    lost = tuple(name for told, name in SPARED.items() if re.search(told, hit.said))
    differs = [name for name in differing(wanted, left_in(work.folder)) if not name.startswith(lost)]
    return f"exit 0, and {differs} differ" if differs else ""


def without_lost(wanted: dict[str, Any], hit: Ended) -> dict[str, Any]:
    """What work leaves, without the metrics of the last step if it was told that these are lost."""
    lost: Mapping[int, Any] = {int(step): None for step in re.findall(r"The metrics of step (\d+) could", hit.said)}
    if hit.code or not lost:
        return wanted
    kept = {step: measured for step, measured in wanted["metrics.jsonl"].items() if step not in lost}
    return wanted | {"metrics.jsonl": kept}


def main(trials: int, seed: int, *names: str) -> None:
    begin_anew()
    with tempfile.TemporaryDirectory() as root:
        counts = filled(works(Path(root)), dict.fromkeys(names or ALL, trials), seed)
    print(table("full disk", counts))
    print("\n".join(odd for count in counts.values() for odd in count.odd))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
