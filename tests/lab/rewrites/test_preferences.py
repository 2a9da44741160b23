import json

import numpy as np
import pytest
from tiny_text import language_model

from diffpo.data.layouts import Columns
from diffpo.data.pairs import PairTable
from diffpo.lab.rewrites.build import build_tokenizer
from diffpo.lab.rewrites.oracle import utility
from diffpo.lab.rewrites.preferences import judge_pair, sample_pairs, write_prompts
from diffpo.lab.rewrites.requests import EVALUATION_REQUEST, TRAINING_REQUESTS, prompt, split_requests
from diffpo.lab.shapes.captions import plain, read_caption
from diffpo.lab.shapes.oracle import noisy_label
from diffpo.lab.shapes.scenes import Attributes

GOOD, BAD = Attributes("red", "circle", "white", "center"), Attributes("red", "circle", "gray", "center")


def prompts(folder, part: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (folder / f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def sampled():
    tokenizer = build_tokenizer()
    model = language_model(vocabulary=len(tokenizer)).eval()
    return sample_pairs(model, tokenizer, split_requests().training, pairs=12)


def test_prompts_are_those_of_the_split(tmp_path):
    split = split_requests()
    write_prompts(split, tmp_path)
    assert prompts(tmp_path, "evaluation") == [prompt(asked, EVALUATION_REQUEST) for asked in split.evaluation]
    known = prompts(tmp_path, "development")
    assert [read_caption(text) for text in known] == split.development
    families = [
        {family for family in TRAINING_REQUESTS if prompt(asked, family) == text}
        for asked, text in zip(split.development, known, strict=True)
    ]
    assert set.union(*families) == set(TRAINING_REQUESTS)


def test_pairs_read_as_columns(sampled, tmp_path):
    sampled.to_parquet(tmp_path / "train.parquet")
    table = PairTable(Columns(str(tmp_path / "train.parquet")), [], seed=0)
    assert len(table) == 12
    assert {row.prob for row in table} <= {0.5, 1.0}


def test_the_two_sides_of_a_pair_differ(sampled):
    assert all(row["chosen"] != row["rejected"] for row in sampled)


def test_the_chosen_side_is_the_one_with_the_higher_rating(sampled):
    assert all(row["score_chosen"] > row["score_rejected"] for row in sampled)


def test_labels_are_draws_of_rao_and_kupper():
    """Wins, losses and ties of two rewrites are as frequent as in `noisy_label` for the same gap of utility."""
    asked, rng = Attributes("red", "circle"), np.random.default_rng(0)
    gap = utility(asked, GOOD) - utility(asked, BAD)
    pair, n = (plain(GOOD), plain(BAD)), 4000
    rows = [judge_pair("a red circle:", pair, rng) for _ in range(n)]
    ties = np.mean([row["prob"] == 0.5 for row in rows])
    wins = np.mean([row["prob"] == 1 and row["chosen"] == pair[0] for row in rows])
    drawn = [noisy_label(gap, rng, temperature=0.2, tie=0.2) for _ in range(n)]
    assert gap == pytest.approx(1 / 6)
    assert (ties, wins) == pytest.approx((drawn.count(0.5) / n, drawn.count(1.0) / n), abs=0.03)


def test_what_is_no_caption_hardly_ever_wins():
    rng = np.random.default_rng(0)
    worst = "a small blue square on the left, brown background"
    rows = [judge_pair("a red circle:", ("red red", worst), rng) for _ in range(200)]
    assert np.mean([row["chosen"] == worst for row in rows]) > 0.97
