import json

import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Captioned, PromptsOnly, Unpaired
from diffpo.data.pairs import PairTable
from diffpo.data.row_maps import ScoreLabel, Smooth
from diffpo.data.rows import DropTies, Reverse

DRAWS = Draws(0, (0,), (0,))


def opened(tmp_path, labels, maps=()):
    records = [{"image": f"{i}.png", "prompt": "p", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    table = PairTable(Unpaired(str(tmp_path / "a.jsonl")), list(maps), seed=0)
    return [table[i] for i in range(len(table))]


@pytest.mark.parametrize("labels", [[True, False], [1, 0], ["true", "false"], ["1", "0"]])
def test_a_label_is_the_probability_of_being_desirable(tmp_path, labels):
    good, bad = opened(tmp_path, labels, [DropTies()])
    assert (good.prob, bad.prob) == (1.0, 0.0)
    assert (len(good.candidates), good.prompts, good.scores) == (1, ("p",), (0.0,))


@pytest.mark.parametrize("label", [0.5, "good"])
def test_other_labels_are_refused(tmp_path, label):
    with pytest.raises(Refusal, match=r"Row 0 has label = .*; Unpaired needs true or 1, false or 0"):
        opened(tmp_path, [label])


def test_row_maps_for_single_pictures(tmp_path):
    (good,) = opened(tmp_path, [True])
    assert Reverse()(good, DRAWS).prob == 0.0
    assert Smooth(0.1)(good, DRAWS).prob == pytest.approx(0.9)
    with pytest.raises(Refusal, match="ScoreLabel compares two candidates, row 0 has 1"):
        ScoreLabel()(good, DRAWS)


@pytest.mark.parametrize(("layout", "columns"), [(Captioned, ["image"]), (PromptsOnly, [])])
def test_without_a_verdict_nothing_is_a_tie(tmp_path, layout, columns):
    records = [{"image": f"{i}.png", "caption": f"prompt {i}"} for i in range(2)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    table = PairTable(layout(str(tmp_path / "a.jsonl"), prompt="caption"), [DropTies()], seed=0)
    rows = [table[i] for i in range(len(table))]
    assert [row.prompts for row in rows] == [("prompt 0",), ("prompt 1",)]
    assert [[cell.column for cell in row.candidates] for row in rows] == [columns] * 2


def test_a_missing_prompt_column_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "p"}')
    with pytest.raises(Refusal, match="prompt"):
        PairTable(PromptsOnly(str(tmp_path / "a.jsonl")), [], seed=0)
