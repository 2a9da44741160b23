from tiny_text import saved_pairs, tokenizer

from diffpo.data.layouts import Columns
from diffpo.data.sampler import ProcessShare
from diffpo.text.data.pairs import HeldOutTexts, TextData
from diffpo.text.data.tokenizing import Tokenizing


def test_each_text_is_either_trained_on_or_judged(tmp_path):
    data = TextData(Columns(saved_pairs(tmp_path / "x.parquet")), workers=0)
    training, validation = HeldOutTexts(share=0.4).split(data, 0, Tokenizing(tokenizer()))
    parts = [
        set(next(iter(pairs.batches(ProcessShare(pairs.size or 0, seed=0)))).row)
        for pairs in (training, validation.pairs)
    ]
    assert parts[0] | parts[1] == set(range(12))
    assert not parts[0] & parts[1]
