"""Users of the tiny world judge the pictures that models drew for them, each by the own taste, without noise."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffpo.data.files.pictures import read_image
from diffpo.diffusion.users.drawing import Files, win_rate_by_users
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.oracle import Measurement, measure
from diffpo.lab.users.tastes import Taste


@cache
def measure_file(file: Path) -> Measurement:
    return measure(read_image(str(file)))


def utilities(files: Sequence[Path], taste: Taste, asked: Sequence[str]) -> Float[np.ndarray, "prompts pictures"]:
    """Of a user, of the pictures of all prompts."""
    each = len(files) // len(asked)
    wanted = [read_caption(prompt) for prompt in asked for _ in range(each)]
    found = [taste.utility(measure_file(file), request) for file, request in zip(files, wanted, strict=True)]
    return np.array(found).reshape(len(asked), each)


Worth = Mapping[str, Float[np.ndarray, "users prompts pictures"]]


def judge_pictures(
    rows: Mapping[str, Files], people: Mapping[str, Taste], asked: Sequence[str]
) -> dict[str, Float[np.ndarray, "users prompts pictures"]]:
    """Utilities of the pictures that each user gets, by name of the row of the tables."""
    return {
        row: np.stack([utilities(files[user], taste, asked) for user, taste in people.items()])
        for row, files in rows.items()
    }


def compare_rows(
    rows: Mapping[str, Files], worth: Worth, people: Mapping[str, Taste], asked: Sequence[str]
) -> dict[str, Any]:
    """What a report says of every row of its tables, and of every two.

    Args:
        rows: pictures that each user gets, by name of the row; `win_rate` of a user is over the first one.
        worth: what `judge_pictures` says of them.
    """
    first = next(iter(worth.values()))
    pairs = []
    for b, a in combinations(rows, 2):
        rate = win_rate_by_users(worth[a], worth[b])
        rates = {"win_rate": rate.rate, "win_rate_low": rate.low, "win_rate_high": rate.high}
        pairs.append({"a": a, "b": b, "metric": "taste", **rates})
    models = {row: summarize_row(files, worth[row], first, people, asked) for row, files in rows.items()}
    return {"models": models, "pairs": pairs}


def summarize_row(
    files: Files,
    worth: Float[np.ndarray, "users prompts pictures"],
    first: Float[np.ndarray, "users prompts pictures"],
    people: Mapping[str, Taste],
    asked: Sequence[str],
) -> dict[str, Any]:
    """A row of the tables: means over users, and each user's own numbers.

    Args:
        worth, first: utilities of this row and of the first one.
    """
    faithful, clean = [], []
    for user in people:
        wanted = [read_caption(prompt) for prompt in asked for _ in range(worth.shape[2])]
        seen = [measure_file(file) for file in files[user]]
        faithful.append(np.mean([m.right(request) for m, request in zip(seen, wanted, strict=True)]))
        clean.append(np.mean([m.clean for m in seen]))
    wins = np.where(worth == first, 0.5, worth > first).mean(axis=(1, 2))
    by_user = {
        user: {"utility": u, "attributes": a, "win_rate": w}
        for user, u, a, w in zip(
            people, worth.mean(axis=(1, 2)).tolist(), map(float, faithful), wins.tolist(), strict=True
        )
    }
    means = {"attributes": float(np.mean(faithful)), "clean": float(np.mean(clean))}
    scores = {"taste": {"mean": float(worth.mean()), "median": float(np.median(worth))}}
    return means | {"scores": scores, "users": by_user}
