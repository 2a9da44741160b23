import torch
from datasets import Dataset

from diffpo.data.layouts import Columns
from diffpo.data.rows import RowMap
from diffpo.text.data.pairs import TextData
from diffpo.text.evaluation.ranking_accuracy import of_pairs
from diffpo.text.model.loading import CausalLM, load_base

TINY = CausalLM("assets/tiny-lm")
ROWS: list[RowMap] = []


def test_likelihoods_are_those_of_each_pair_however_many_are_read_at_a_time(tmp_path):
    sides = {
        "chosen": ["a red circle", "a large blue square", "a cross"],
        "rejected": ["a", "a circle", "a red cross"],
    }
    table = {"prompt": ["red", "a square", "a cross"], **sides, "prob": [1.0, 0.7, 0.9]}
    Dataset.from_dict(table).to_parquet(tmp_path / "pairs.parquet")
    data = TextData(Columns(str(tmp_path / "pairs.parquet")), rows=ROWS, max_length=64)
    pairs, model = data.open(0, TINY.tokenizing()), load_base(TINY)
    whole, prob = of_pairs(model, load_base(TINY), pairs, 99, 3)
    single, _ = of_pairs(model, load_base(TINY), pairs, 2, 1)
    assert torch.equal(whole.policy, whole.reference)
    torch.testing.assert_close(single.policy, whole.policy[:, :2], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(prob, torch.tensor([1.0, 0.7, 0.9]))
    assert (whole.length >= 2).all()
