"""Twelve further people with opposed tastes, for methods that learn of users (PPD, arXiv:2501.06655)."""

from collections.abc import Iterator, Mapping
from io import BytesIO

import numpy as np
from datasets import Dataset, Features, Value
from PIL import Image

from diffpo.lab.scenes.captions import read_caption
from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.people import Rater, SceneTaste, draw_vote
from diffpo.lab.scenes.preferences import LAYOUT

STRENGTH, CARE = 0.4, {"temperature": 0.1, "tie": 0.3}
SEEN = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (0.7, 0, 0.7), (-0.7, 0, -0.7))
HELD_OUT = ((0.7, 0, -0.7), (-0.7, 0, 0.7), (0.7, 0.7, 0), (0, -0.7, -0.7))  # directions that nobody in SEEN has
KEPT = ("caption", "jpg_0", "jpg_1", "label_0", "has_label", "seed_0", "seed_1")
JUDGED = Features({name: LAYOUT[name] for name in KEPT} | {"user_id": Value("string"), "pair_id": Value("int64")})


def invite_users() -> tuple[dict[str, Rater], dict[str, Rater]]:
    """Eight users who are trained on, each the opposite of another, and four who are not."""
    seen, held_out = (
        [Rater(SceneTaste(*(STRENGTH * weight for weight in weights)), **CARE) for weights in some]
        for some in (SEEN, HELD_OUT)
    )
    return (
        {f"seen-{i:02d}": user for i, user in enumerate(seen)},
        {f"held-out-{i:02d}": user for i, user in enumerate(held_out)},
    )


def ask_users(pairs: Dataset, users: Mapping[str, Rater], viewers: int, seed: int = 0) -> Dataset:
    """A row for each user who saw a pair, in the layout of Pick-a-Pic, with `user_id` and `pair_id`.

    Args:
        pairs: of `sample_pairs`; whoever voted on them before does not count.
        viewers: users, drawn at random, who see a pair.
    """
    rng = np.random.default_rng(seed)

    def rows() -> Iterator[dict]:
        for i in range(len(pairs)):
            row: dict = pairs[i]
            asked = read_caption(row["caption"])
            pictures = [measure(Image.open(BytesIO(row[name]))) for name in ("jpg_0", "jpg_1")]
            for name in rng.choice([*users], size=viewers, replace=False).tolist():
                chances = users[name].chances(*(users[name].taste.utility(one, asked) for one in pictures))
                said = {"label_0": draw_vote(*chances, rng), "user_id": name, "pair_id": i}
                yield {column: row[column] for column in KEPT} | said

    return Dataset.from_list(list(rows()), features=JUDGED)
