"""A guard against a loop that grows slow: ratios against the bare loop, stored with the code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffpo.core.refusal import Refusal

TOLERATED = 1.1  # times the stored ratio
Measure = Callable[[str], float]


def record_ratios(path: Path, cases: tuple[str, ...], measure: Measure) -> dict[str, float]:
    """Measure and store the ratio of each case: never a time, which would say more about the machine."""
    found = {case: round(measure(case), 3) for case in cases}
    path.write_text(json.dumps({"ratio_to_bare_loop": found}, indent=2) + "\n")
    return found


def check(path: Path, measure: Measure) -> dict[str, float]:
    """Measure each stored case; one that fails is measured once more, since a machine may be busy with other things.

    Raises:
        Refusal: if a case is more than a tenth slower than stored, both times.
    """
    found = {}
    for case, stored in read_ratios(path).items():
        limit = TOLERATED * stored
        found[case] = measure(case)
        if found[case] > limit:
            again = measure(case)
            if again > limit:
                raise Refusal(
                    f"{case}: a step takes {min(found[case], again):.3f} times as long as the bare loop, stored are "
                    f"{stored:.3f}, so it became more than {TOLERATED - 1:.0%} slower; profile what changed, or "
                    f"record the new ratio with --record {path}."
                )
            found[case] = again
    return found


def read_ratios(path: Path) -> dict[str, float]:
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored["ratio_to_bare_loop"]
