"""Programs are killed, or get a signal, at moments of chance, and go on.

python tests/campaigns/kill.py TRIALS SEED (with ., scripts, tests, tests/helpers and tests/scripts on PYTHONPATH)

Each trial begins work anew, hits it once or twice, lets it go on to its end, and compares what is left with what the
same work leaves undisturbed. Other trials start the same work twice at one time.
"""

import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from campaigns.counts import Count, table
from campaigns.programs import Blow, Ended, Program, begin_anew
from campaigns.worlds import ALL, Work, differing, left_in, works

BLOWS = ("kill", "kill", "kill", "SIGTERM", "SIGINT", "SIGUSR1")
TWICE = 1 / 3  # of the trials are hit again when they go on
EARLY = 1 / 3  # of the time of a program, at most, after which another one is started

# A training that is not to resume looks for checkpoints before it looks for who is at work.
REFUSED = re.compile(r"is in use by process|already holds \S+; continue that run with --resume latest")


def killed(all_works: Mapping[str, Work], trials: Mapping[str, int], seed: int) -> dict[str, Count]:
    """What came of so many trials of each kind of work, of which the third of five starts two programs."""
    counts = {}
    for name, some in trials.items():
        work, count, rng = all_works[name], Count(), random.Random(f"{seed} {name}")
        whole, wanted, _ = undisturbed(work)
        for number in range(some):
            if number % 5 == 2:
                count.add(*twins(work, whole, wanted, rng))
            else:
                count.add(*trial(work, whole, wanted, rng, count))
        counts[name] = count
    return counts


@cache
def undisturbed(work: Work) -> tuple[Ended, dict[str, Any], int]:
    """How work ends that nothing happens to, what it leaves, and the bytes of the largest file."""
    shutil.rmtree(work.folder, ignore_errors=True)
    whole = Program(work).end()
    assert whole.code == 0, whole.said[-2000:]
    return whole, left_in(work.folder), max(file.stat().st_size for file in work.folder.rglob("*"))


def trial(work: Work, whole: Ended, wanted: dict[str, Any], rng: random.Random, count: Count) -> tuple[str, str]:
    shutil.rmtree(work.folder, ignore_errors=True)
    said = []
    for again in [False, True][: 1 + (rng.random() < TWICE)]:
        blow = chosen(whole, rng)
        hit = Program(work, again, blow).end()
        said.append(f"{blow} ended {hit.code}: {hit.said[-1500:]}")
        if wrong := wrong_in(hit, blow) or (wrong_steps(hit, work) if work.trains and not again else ""):
            return "silent", f"{wrong}: {said}"
        count.hit(hit.code)
    return outcome(Program(work, again=True).end(), work, wanted, said)


def chosen(whole: Ended, rng: random.Random) -> Blow:
    """At a touch of the folder, which is often within a save, or at any time."""
    what = rng.choice(BLOWS)
    if rng.random() < 2 / 3:
        return Blow(what, touch=rng.randint(1, whole.touches))
    return Blow(what, seconds=rng.uniform(0, whole.seconds))


def wrong_in(hit: Ended, blow: Blow) -> str:
    """What is wrong with how a program ended that was hit; empty if nothing is."""
    if hit.is_bare:
        return "a traceback"
    number = signal.SIGKILL if blow.what == "kill" else signal.Signals[blow.what]
    if hit.code in (0, -number):  # it was over, or Python had not begun or had ended with it
        return ""
    if hit.code != 128 + number:
        return f"ended with {hit.code}"
    return "" if f"Stopped by {number.name}." in hit.said and "To go on: " in hit.said else "said nothing"


def wrong_steps(hit: Ended, work: Work) -> str:
    """A signal costs the step in hand at most."""
    saved = max((int(path.name[-6:]) for path in work.folder.glob("checkpoint-*")), default=0)
    return f"{hit.steps} steps were whole, {saved} are saved" if hit.code > 0 and hit.steps != saved else ""


def outcome(last: Ended, work: Work, wanted: dict[str, Any], said: list[str]) -> tuple[str, str]:
    """Of the program that went on to the end."""
    about = f"{said}, then {last.code}: {last.said[-1500:]}"
    if last.is_bare:
        return "silent", about
    if last.code:
        return ("told" if last.is_told else "silent"), about
    differs = differing(wanted, left_in(work.folder))
    return ("silent", f"{differs} differ: {about}") if differs else ("survived", "")


def twins(work: Work, whole: Ended, wanted: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    """Two programs in one folder: one of them has to leave it to the other."""
    shutil.rmtree(work.folder, ignore_errors=True)
    one = Program(work)
    time.sleep(rng.uniform(0, EARLY * whole.seconds))
    other = Program(work, again=rng.random() < 0.5)
    ended = sorted((one.end(), other.end()), key=lambda program: (program.code, program.first))
    said = [f"{program.code}: {program.said[-1000:]}" for program in ended]
    first, second = ended
    if first.is_bare or second.is_bare or first.code:
        return "silent", str(said)
    if second.code == 0 and second.first < first.last and "was finished already" not in second.said:
        return "silent", f"both went on: {said}"
    if second.code and not (second.is_told and REFUSED.search(second.errors[0])):
        return "silent", f"no word of the other: {said}"
    differs = differing(wanted, left_in(work.folder))
    return ("silent", f"{differs} differ: {said}") if differs else ("survived", "")


def main(trials: int, seed: int, *names: str) -> None:
    begin_anew()
    with tempfile.TemporaryDirectory() as root:
        counts = killed(works(Path(root)), dict.fromkeys(names or ALL, trials), seed)
    print(table("killed", counts))
    print("\n".join(odd for count in counts.values() for odd in count.odd))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
