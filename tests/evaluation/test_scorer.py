import pytest

from diffpo.core.refusal import Refusal
from diffpo.data.row_maps import scored_by
from diffpo.evaluation.scorer import require_as_many
from diffpo.lab.shapes.scorer import Oracle


def test_prompts_and_candidates_of_different_number_are_refused():
    with pytest.raises(Refusal, match="There are 2 prompts and 1 candidates"):
        require_as_many(["a", "b"], [None])


def test_the_identity_names_scorer_model_and_formula():
    assert Oracle().identity == {
        "scorer": "oracle",
        "model_id": "diffpo.tinyworld.oracle",
        "version": "attributes + style, -1 if not clean",
        "raw": False,
    }


def test_data_say_who_scored_them_or_nothing(tmp_path):
    assert scored_by(tmp_path) is None
    (tmp_path / "scores.json").write_text('{"scorer": "a", "model_id": "b", "version": "c", "raw": true, "count": 3}')
    assert scored_by(tmp_path) == {"scorer": "a", "model_id": "b", "version": "c", "raw": True}
