import torch

from diffpo.core.pair import PairLabels
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.excerpts import mark, tell_pairs

WORDS = ["pad", "who", " asks", "?\n", " me", " too"]


class Words:
    def decode(self, ids):
        return "".join(WORDS[i] for i in ids)


def batch(parts) -> TokenBatch:
    part = torch.tensor(parts).expand(2, 1, -1)
    ids = torch.tensor([[[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 0]]])
    label = PairLabels(torch.tensor([0.75]), torch.zeros(2, 1), torch.ones(1))
    return TokenBatch(ids, ids > 0, (part > 0) & (ids > 0), part, label, (7,), (0,))


def test_what_counts_is_marked_and_padding_left_out():
    shown = batch([0, 0, 0, 1, 1])
    assert mark(shown, 0, 0, Words()) == "who asks?\\n[[ me too]]"
    assert mark(shown, 1, 0, Words()) == "who asks?\\n[[ me]]"


def test_parts_stand_in_brackets_of_their_own():
    assert mark(batch([0, 1, 0, 1, 2]), 0, 0, Words()) == "who[[ asks]]?\\n[[ me]][[ too]]"


def test_a_row_is_told_with_its_label_and_all_candidates():
    lines = list(tell_pairs(batch([0, 0, 0, 1, 1]), Words()))
    assert lines[0] == "row 7, P(first is best) 0.75, weight 1"
    assert [line[:5] for line in lines[1:]] == ["  1. ", "  2. "]
