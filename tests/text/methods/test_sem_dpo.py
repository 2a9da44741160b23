import math

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow
from diffpo.text.methods.sem_dpo import SemanticWeight
from diffpo.text.objective.preference import SequencePreference

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))


def row(chosen: float = 0.5, rejected: float = 1.0, weight: float = 1.0) -> PairRow:
    extra = {"sem_distance": chosen, "sem_distance_rejected": rejected}
    return PairRow(7, ("p", "p"), ("a", "b"), weight=weight, extra=extra)


def weight(alpha: float, distance: float) -> float:
    changed = SemanticWeight(alpha)(row(distance), DRAWS)
    assert changed is not None
    return changed.weight


def test_weights_by_hand():
    """exp(-2 x 0.5); opposite embeddings give exp(-2 alpha); the same text 1."""
    assert weight(2.0, 0.5) == pytest.approx(math.exp(-1))
    assert weight(1.5, 2.0) == pytest.approx(math.exp(-3))
    assert weight(9.0, 0.0) == 1.0
    assert weight(2.0, 0.3) > weight(2.0, 0.4)


def test_alpha_zero_leaves_the_row_as_it_is():
    assert SemanticWeight(0.0)(row(), DRAWS) == row()


def test_only_the_winner_counts_and_earlier_weights_stay():
    both = SemanticWeight(1.0)(row(weight=3.0), DRAWS)
    other = SemanticWeight(1.0)(row(rejected=0.1, weight=3.0), DRAWS)
    assert both is not None
    assert other is not None
    assert both.weight == other.weight == pytest.approx(3 * math.exp(-0.5))


def test_with_exchanged_sides_the_winner_is_the_other_one():
    turned = SemanticWeight(1.0)(row().swapped(), DRAWS)
    assert turned is not None
    assert turned.weight == pytest.approx(math.exp(-1.0))


def test_the_loss_is_the_plain_mean_of_weighted_pairs():
    model, batch = language_model(), token_batch()
    weights = torch.tensor([1.0, 0.5, 0.1])
    label = PairLabels(batch.label.prob, batch.label.score, weights)
    weighted = type(batch)(**{**vars(batch), "label": label})
    step = SequencePreference()(model, FrozenCopy(model), weighted, DRAWS)
    torch.testing.assert_close(step.loss, weights.mean() * math.log(2))


def test_a_distance_that_is_nan_is_none():
    with pytest.raises(
        Refusal, match="needs column 'sem_distance', row 7 has no value there .* with scripts/measure_t"
    ):
        weight(1.0, math.nan)


@pytest.mark.parametrize("distance", [-0.1, 2.1])
def test_what_is_no_cosine_distance_is_refused(distance):
    with pytest.raises(Refusal, match=r"Row 7 has sem_distance .* lies in \[0, 2\]; add it with scripts/measure_t"):
        weight(1.0, distance)


def test_a_missing_column_names_the_script_and_a_negative_alpha_is_refused():
    with pytest.raises(Refusal, match="add it with scripts/measure_texts.py semantic-distance"):
        SemanticWeight()(PairRow(0, ("p", "p"), ("a", "b")), DRAWS)
    with pytest.raises(Refusal, match="alpha of at least 0, got -1"):
        SemanticWeight(-1.0)
