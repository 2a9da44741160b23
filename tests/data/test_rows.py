from dataclasses import replace

import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.data.row_maps import Mislabel, ScoreLabel, Smooth
from diffpo.data.rows import (
    AtLeast,
    BreakTies,
    DropPromptless,
    DropTies,
    ForTraining,
    ForValidation,
    Only,
    PairRow,
    PerPrompt,
    Reverse,
    Weight,
    apply_maps,
    require_order,
)
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.methods.capo import Calibrated
from diffpo.text.data.pairs import TextData
from diffpo.text.data.pictures import CorruptedPicture
from diffpo.text.data.row_maps import WithRationale
from diffpo.text.methods.spo_self_supervised import Degrade

DRAWS = Draws(0, (0,), (3,))
ROW = PairRow(3, ("w", "l"), ("win", "lose"), extra={"score_chosen": 2.0, "score_rejected": 6.0, "weight": 0.25})
TIE = replace(ROW, prob=0.5)


def test_drop_ties():
    assert DropTies()(TIE, DRAWS) is None
    assert DropTies()(ROW, DRAWS) is ROW


def test_break_ties_is_fixed_by_seed_and_row_and_fair():
    winners = [BreakTies()(TIE, Draws(0, (0,), (i,))).candidates[0] for i in range(400)]
    assert winners == [BreakTies()(TIE, Draws(0, (0,), (i,))).candidates[0] for i in range(400)]
    assert 150 < winners.count("win") < 250
    assert BreakTies()(TIE, DRAWS).prob == 1.0
    assert BreakTies()(ROW, DRAWS) is ROW


def test_drop_promptless_keeps_empty_prompts():
    assert DropPromptless()(replace(ROW, prompts=("a", None)), DRAWS) is None
    assert DropPromptless()(replace(ROW, prompts=("", "")), DRAWS) is not None


def test_exchanging_sides_twice_changes_nothing():
    turned = replace(ROW, scores=(2.0, 6.0)).swapped()
    assert (turned.candidates, turned.prompts, turned.scores) == (("lose", "win"), ("l", "w"), (6.0, 2.0))
    assert (turned.turned, turned.prob, turned.extra) == (True, ROW.prob, ROW.extra)
    assert turned.swapped() == replace(ROW, scores=(2.0, 6.0))


def test_reverse_swaps_rows_and_keeps_certainty():
    sure = replace(ROW, prob=0.8, scores=(6.0, 2.0))
    back = Reverse()(sure, DRAWS)
    assert (back.candidates, back.prompts, back.scores) == (("lose", "win"), ("l", "w"), (2.0, 6.0))
    assert back.prob == 0.8
    assert Reverse()(back, DRAWS) == sure


def test_weight_reads_its_column():
    assert Weight()(ROW, DRAWS).weight == 0.25


def test_weight_per_prompt_by_hand():
    several = replace(ROW, weight=2.0, extra={"num_example_per_prompt": 4})
    assert PerPrompt()(several, DRAWS).weight == 0.5
    with pytest.raises(Refusal, match="PerPrompt needs column 'num_example_per_prompt', row 3"):
        PerPrompt()(ROW, DRAWS)


@pytest.mark.parametrize(("value", "kept"), [(0.95, True), (0.94, False), (None, False), ("0.97", True)])
def test_at_least_drops_what_is_below_or_null(value, kept):
    row = replace(ROW, extra={"confidence": value})
    assert (AtLeast("confidence", 0.95)(row, DRAWS) is row) == kept


def test_at_least_needs_its_column():
    with pytest.raises(Refusal, match="AtLeast needs column 'confidence', row 3"):
        AtLeast("confidence", 0.95)(ROW, DRAWS)


def test_every_prompt_is_on_one_side_of_the_split():
    rows = [replace(ROW, id=i, prompts=(f"prompt {i}",) * 2) for i in range(1000)]
    held = [ForValidation(0.1)(row, DRAWS) is row for row in rows]
    assert [ForTraining(0.1)(row, DRAWS) is row for row in rows] == [not is_held for is_held in held]
    assert 70 < sum(held) < 130


def test_the_split_depends_on_the_prompt_alone():
    """Neither on the seed, nor on the row, nor on the order of its sides; and a larger share only adds prompts."""
    rows = [replace(ROW, prompts=(f"a {i}", f"b {i}")) for i in range(100)]
    held = [ForValidation(0.3)(row, DRAWS) is not None for row in rows]
    others = [replace(row, id=i).swapped() for i, row in enumerate(rows)]
    assert [ForValidation(0.3)(row, Draws(5, (1,), (row.id,))) is not None for row in others] == held
    larger = [ForValidation(0.5)(row, DRAWS) is not None for row in rows]
    assert all(more >= less for more, less in zip(larger, held, strict=True))


def test_a_row_without_a_prompt_is_left_to_be_refused_on_both_sides():
    promptless = replace(ROW, prompts=("a", None))
    assert ForTraining(0.999)(promptless, DRAWS) is ForValidation(0.001)(promptless, DRAWS) is promptless


def test_maps_run_in_order_and_the_one_that_drops_is_told():
    smooth, drop = Smooth(0.5), DropTies()
    assert apply_maps(ROW, [drop, smooth], DRAWS).prob == 0.5
    assert apply_maps(ROW, [smooth, drop], DRAWS) is drop


def test_only_one_value_is_kept_whether_it_is_a_number_or_a_text():
    ann, seven, nobody = (replace(ROW, extra={"user_id": user}) for user in ("ann", 7, None))
    assert Only("user_id", "ann")(ann, DRAWS) is ann
    assert Only("user_id", "7")(seven, DRAWS) is seven
    assert Only("user_id", "ann")(nobody, DRAWS) is None
    with pytest.raises(Refusal, match="Only needs column 'user_id'"):
        Only("user_id", "ann")(ROW, DRAWS)


LAST = [WithRationale(), CorruptedPicture(), Degrade(), Calibrated()]


@pytest.mark.parametrize("last", LAST, ids=lambda row_map: type(row_map).__name__)
def test_a_map_that_has_to_be_the_last_is_refused_elsewhere(last):
    require_order([DropTies(), Reverse(), last])
    for later in (Reverse(), Smooth(), DropTies()):
        with pytest.raises(
            Refusal, match=f"{type(last).__name__} has to be the last of data.rows, .*{type(later).__name__}"
        ):
            require_order([DropTies(), last, later])


def test_both_tracks_look_at_the_order():
    for data in (PairData, TextData):
        with pytest.raises(Refusal, match="Calibrated has to be the last"):
            data(PairFolder("unused"), rows=[Calibrated(), DropTies()])


def test_labels_are_made_wrong_before_a_scorer_sees_them():
    keeping, naming = (ScoreLabel(keep_order=keep) for keep in (True, False))
    require_order([Mislabel(), keeping])
    require_order([naming, Mislabel()])
    with pytest.raises(Refusal, match="Mislabel comes after a ScoreLabel that keeps the order"):
        require_order([keeping, DropTies(), Mislabel()])
