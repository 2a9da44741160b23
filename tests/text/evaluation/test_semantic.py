import json
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from diffpo.core.refusal import Refusal
from diffpo.data.files.tables import open_table
from diffpo.data.layouts import Columns
from diffpo.text.evaluation.semantic import CLIPText, SentenceEncoder, add_distances, measure_distances, require_cell

ENCODER = CLIPText("assets/tiny-clip")
RED, BLUE = "a red circle on the left, white background", "a blue square at the top, black background"


def test_the_same_text_has_no_distance_and_another_has_some():
    same, other = measure_distances(ENCODER, [RED, RED], [RED, BLUE])
    assert same == pytest.approx(0, abs=1e-6)
    assert 0.01 < other <= 2


def test_distances_depend_on_no_other_text_and_are_symmetric():
    alone = measure_distances(ENCODER, [RED], [BLUE])
    torch.testing.assert_close(measure_distances(ENCODER, [BLUE, RED], [RED, RED + ", small"])[:1], alone)


def test_messages_are_read_as_what_they_say():
    said = [{"role": "user", "content": BLUE}]
    torch.testing.assert_close(measure_distances(ENCODER, [RED], [said]), measure_distances(ENCODER, [RED], [BLUE]))


def test_padding_does_not_count_in_a_mean_of_states():
    states, attended = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[[1.0], [1.0], [0.0]]])

    class Output:
        last_hidden_state = states

    assert SentenceEncoder().pooled(Output(), attended).tolist() == [[2.0]]


def test_pairs_get_two_columns_and_a_record_of_who_measured(tmp_path):
    rows = {"prompt": [RED, BLUE], "chosen": [RED, RED + " and more" * 30], "rejected": [BLUE, BLUE], "extra": [1, 2]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "pairs.parquet")
    about = add_distances(ENCODER, Columns(str(tmp_path / "pairs.parquet")), tmp_path / "out", batch_size=1)
    table = open_table(str(tmp_path / "out" / "train.parquet"), "train", None)
    expected = measure_distances(ENCODER, rows["prompt"], rows["rejected"]).tolist()
    assert table["sem_distance_rejected"][:] == pytest.approx(expected, abs=1e-5)
    assert table["sem_distance"][0] == pytest.approx(0, abs=1e-6)
    assert table["extra"][:] == [1, 2]
    assert about == json.loads((tmp_path / "out" / "semantic.json").read_text())
    assert (about["model_id"], about["pairs"], about["cut"]) == ("assets/tiny-clip", 2, 1)
    with pytest.raises(Refusal, match="is not empty; choose another one"):
        add_distances(ENCODER, Columns("x"), tmp_path / "out")


@pytest.mark.parametrize("odd", [7, 0.5, b"a", {"en": RED}, [RED], '[{"role": "user", "content": "a"}]'], ids=str)
def test_a_cell_that_is_no_text_is_refused_by_row_and_column(odd):
    with pytest.raises(Refusal, match="^Row 3 has a text in chosen that is "):
        require_cell("chosen", odd, 3)


def test_a_null_is_refused_by_row_and_column(tmp_path):
    rows = {"prompt": [RED] * 2, "chosen": [RED] * 2, "rejected": [BLUE, None]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(Refusal, match="^Row 1 has null in rejected, which has no distance"):
        add_distances(ENCODER, Columns(str(tmp_path / "pairs.parquet")), tmp_path / "out")


def test_an_encoder_that_lacks_weights_is_refused(tmp_path):
    shutil.copytree(ENCODER.path, tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    state = load_file(file)
    del state["text_model.final_layer_norm.weight"]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(Refusal, match=r"does not hold the text half of a CLIP: 1 of .* first is .*final_layer_norm"):
        measure_distances(CLIPText(str(tmp_path / "clip")), [RED], [BLUE])
