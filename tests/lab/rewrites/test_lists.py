import numpy as np
import pytest
from tiny_text import language_model

from diffpo.core.draws import Draws
from diffpo.data.rows import PairRow
from diffpo.lab.rewrites.build import build_tokenizer
from diffpo.lab.rewrites.lists import HIGH, LOW, STEPS, sample_lists, scored
from diffpo.lab.rewrites.requests import split_requests
from diffpo.lab.shapes.captions import TRAINING_FAMILIES
from diffpo.lab.shapes.scenes import Attributes
from diffpo.text.data.layouts import ListOf, Lists
from diffpo.text.data.row_maps import SplitSteps

DRAWS = Draws(0, (0,), (0,))
SCENE = Attributes("red", "circle", "white", "center", "large")


@pytest.fixture(scope="module")
def sampled():
    tokenizer = build_tokenizer()
    model = language_model(vocabulary=len(tokenizer)).eval()
    return sample_lists(model, tokenizer, split_requests().training, lists=6, size=3)


def test_lists_are_read_by_the_source(sampled, tmp_path):
    sampled.to_parquet(str(tmp_path / "lists.parquet"))
    source = Lists(str(tmp_path / "lists.parquet"), low=LOW, high=HIGH)
    rows = [source.row(i, record, lambda column: None) for i, record in enumerate(source.open())]
    assert all(ListOf(3)(row, DRAWS) == row for row in rows)
    assert all(len(set(row.candidates)) == 3 for row in rows)


def test_a_better_answer_has_a_better_score_on_average():
    rng = np.random.default_rng(0)
    good, bad = "a large red circle in the center, white background", "a blue circle on the left, white background"
    scores = np.array([scored("a red circle:", [good, bad, "no caption"], rng) for _ in range(50)]).mean(0)
    assert (np.diff(scores) < 0).all()


def test_scores_stay_in_the_range_of_the_utility():
    rng = np.random.default_rng(0)
    scores = [scored("a red circle:", ["a red circle in the center, white background", "no"], rng) for _ in range(50)]
    assert np.min(scores) == LOW
    assert np.max(scores) <= HIGH


@pytest.mark.parametrize("family", TRAINING_FAMILIES)
def test_a_caption_has_more_than_one_step(family):
    row = PairRow(0, ("p",), (family(SCENE),))
    completion = SplitSteps(STEPS)(row, DRAWS).candidates[0]
    assert completion.text == family(SCENE)
    assert len(completion.segments) >= 2
