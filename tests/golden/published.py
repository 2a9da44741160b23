"""Numbers of scorers with their published weights: `pytest -m weights` compares with them, or records the first."""

import json
from pathlib import Path

import pytest

TOLERANCE = 1e-4  # in units of a cosine; scores of other scales say theirs


def recorded(name: str, numbers: dict[str, float], tolerance: float = TOLERANCE) -> None:
    """Compare with `<name>/published.json`; without it, write it and skip, so that its numbers can be looked at.

    Args:
        name: folder of the scorer beside this file.
        numbers: what was found, by what it is of.
    """
    file = Path(__file__).parent / name / "published.json"
    if not file.exists():
        file.write_text(json.dumps(numbers, indent=2) + "\n")
        pytest.skip(f"{file} was written; compare it with published numbers and commit it.")
    assert numbers == pytest.approx(json.loads(file.read_text()), abs=tolerance)
