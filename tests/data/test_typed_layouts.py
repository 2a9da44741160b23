"""Every layout reads prompts, labels, marks, ranks and scores through one door, whatever their type."""

import math
from collections.abc import Callable, Mapping
from itertools import islice, permutations, product
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import (
    Captioned,
    Columns,
    HPDv3,
    PairFolder,
    PickAPic,
    PickAPicShards,
    PickDoubleCaption,
    PromptsOnly,
    Unpaired,
    VoteShares,
)
from diffpo.data.pairs import PairTable
from diffpo.data.rankings import AllPairs, HPDv2, Ranked, RankedLists
from diffpo.data.row_maps import DualCaptions, ScoreLabel
from diffpo.data.rows import AtLeast, DropTies, DropUnlabeled, PairRow, PerPrompt, Weight
from diffpo.data.source import Layout
from diffpo.data.streams import PairStream, Stream
from diffpo.data.typed import MARK, MARKED, SEVERAL, Captions, show_value
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.users.rows import RewardUsers
from diffpo.rounds.tables import RoundPairs

DRAWS = Draws(0, (0,), (0,))


class Kind(NamedTuple):
    """A layout, a sound record of it, and the columns of its prompts."""

    layout: Layout
    record: Mapping[str, Any]
    prompts: tuple[str, ...]


PICK = {"label_0": 1.0, "caption": "a", "has_label": True}
KINDS = {
    "Columns": Kind(Columns(""), {"prompt": "a"}, ("prompt",)),
    "Columns of own captions": Kind(
        Columns("", prompt_chosen="c", prompt_rejected="r"), {"c": "a", "r": "b"}, ("c", "r")
    ),
    "RoundPairs": Kind(RoundPairs(""), {"prompt": "a"}, ("prompt",)),
    "HPDv3": Kind(HPDv3(""), {"prompt": "a"}, ("prompt",)),
    "PickAPic": Kind(PickAPic(""), PICK, ("caption",)),
    "VoteShares": Kind(VoteShares(""), {"soft": "0.25", "caption": "a"}, ("caption",)),
    "PickAPicShards": Kind(
        PickAPicShards(""), {"label_0.txt": "0", "original_prompt.txt": "a"}, ("original_prompt.txt",)
    ),
    "PickDoubleCaption": Kind(PickDoubleCaption(), PICK | {"caption_0": "x", "caption_1": "y"}, ("caption",)),
    "PairFolder": Kind(PairFolder(""), {"prompt": "a"}, ("prompt",)),
    "HPDv2": Kind(
        HPDv2(""), {"prompt": "a", "file_path": ["a.png", "b.png"], "human_preference": [0, 1]}, ("prompt",)
    ),
    "Ranked": Kind(Ranked(""), {"prompt": "a", "rank_first": 1.0, "rank_second": 2.0}, ("prompt",)),
    "RankedLists": Kind(RankedLists(""), {"prompt": "a", "rank_first": 1.0, "rank_second": 2.0}, ("prompt",)),
    "RewardUsers": Kind(
        RewardUsers({"u": ""}),
        {"prompt": "a", "user_id": "u", "score_chosen": 1.0, "score_rejected": 0.5},
        ("prompt",),
    ),
    "Captioned": Kind(Captioned(""), {"prompt": "a"}, ("prompt",)),
    "Unpaired": Kind(Unpaired(""), {"prompt": "a", "label": 1}, ("prompt",)),
    "PromptsOnly": Kind(PromptsOnly(""), {"prompt": "a"}, ("prompt",)),
}
NO_PROMPTS = [3, 2.5, True, b"a red circle", {"en": "a"}, [1, 2], ["a", None], [["a"]], [{"en": "a"}]]
PROMPTS = {
    "text": ("a red dot", "a red dot", ()),
    "empty": ("", "", ()),
    "null": (None, None, ()),
    "NaN": (math.nan, None, ()),
    "marked": (MARK + "a", "a", (MARKED,)),
    "captions": (["a", "b"], Captions(["a", "b"]), (SEVERAL,)),
    "one caption": (["a"], Captions(["a"]), ()),
    "no caption": ([], None, ()),
    "marked captions": (["a", MARK + "b"], Captions(["a", "b"]), (SEVERAL, MARKED)),
}


def read(kind: Kind, **changed: Any) -> PairRow:
    return kind.layout.row(7, {**kind.record, **changed}, str)


def test_no_layout_is_forgotten():
    def layouts(of: type) -> set[type]:
        return {of, *(found for sub in of.__subclasses__() for found in layouts(sub))}

    ours = {cls for cls in layouts(Layout) if cls.__module__.startswith("diffpo") and not cls.__abstractmethods__}
    texts = {cls for cls in ours if ".text." in cls.__module__}
    assert ours - texts - {EncodedPairs, AllPairs} == {type(kind.layout) for kind in KINDS.values()}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_prompt_is_refused_by_row_column_and_type(name):
    kind = KINDS[name]
    for column, value in product(kind.prompts, NO_PROMPTS):
        with pytest.raises(Refusal, match=rf"^Row 7 has {column} = .*, of type {type(value).__name__}; a prompt is a"):
            read(kind, **{column: value})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", PROMPTS)
def test_prompts_are_read_alike(name, form):
    kind, (value, prompt, notes) = KINDS[name], PROMPTS[form]
    row = read(kind, **dict.fromkeys(kind.prompts, value))
    assert row.prompts == (prompt,) * len(row.prompts)
    assert all(type(said) is type(prompt) for said in row.prompts)
    assert row.notes == notes


TRUE = [True, 1, 1.0, "True", "true", " 1 ", "1.0", "yes"]
FALSE = [False, 0, 0.0, "False", "false", "0\n", "0.0", "no"]
NULL = [None, math.nan, "", "nan"]
PICKED = {"PickAPic": "label_0", "PickAPicShards": "label_0.txt", "PickDoubleCaption": "label_0"}


@pytest.mark.parametrize("name", PICKED)
@pytest.mark.parametrize("mark", ["has_label", "are_different"])
def test_a_mark_that_is_false_in_any_type_is_a_tie(name, mark):
    kind, label = KINDS[name], PICKED[name]
    for value, verdict in product(FALSE, [1, 0.0, "0.5", None, math.nan, "?", -1]):
        row = read(kind, **{mark: value, label: verdict})
        assert (row.prob, row.candidates) == (0.5, (kind.layout.first, kind.layout.second))  # type: ignore[attr-defined]
    for value in (*TRUE, *NULL):
        assert read(kind, **{mark: value, label: "1"}).prob == 1.0
    for value in ("perhaps", 2, 0.5, -1, [True], {"a": 1}):
        with pytest.raises(Refusal, match=rf"^Row 7 has {mark} = .*; it has to be true or false, or 1 or 0\."):
            read(kind, **{mark: value, label: "1"})


@pytest.mark.parametrize("name", PICKED)
def test_labels_in_every_type(name):
    kind, label = KINDS[name], PICKED[name]
    sides = kind.layout.first, kind.layout.second  # type: ignore[attr-defined]
    for values, prob, first in ((TRUE, 1.0, 0), (FALSE, 1.0, 1), ([0.5, "0.5", " .5\n"], 0.5, 0)):
        for value in values:
            row = read(kind, **{label: value})
            assert (row.prob, row.candidates[0]) == (prob, sides[first])
    for value in NULL:
        assert math.isnan(read(kind, **{label: value}).prob)
    for value in (0.7, "chosen", 2, -1, "1-2", math.inf, [1], {"a": 1}):
        with pytest.raises(Refusal, match=rf"^Row 7 has {label} = .*; PickAPic needs 1, 0, or 0.5 for a tie\."):
            read(kind, **{label: value})


def test_labels_of_single_pictures_in_every_type():
    kind = KINDS["Unpaired"]
    for values, prob in ((TRUE, 1.0), (FALSE, 0.0)):
        assert {read(kind, label=value).prob for value in values} == {prob}
    assert all(math.isnan(read(kind, label=value).prob) for value in NULL)
    for value in (0.9, "good", 2, -1, [1]):
        with pytest.raises(Refusal, match=r"^Row 7 has label = .*; Unpaired needs true or 1, false or 0\."):
            read(kind, label=value)


@pytest.mark.parametrize("name", ["Columns", "HPDv3"])
def test_probabilities_in_every_type(name):
    for value in (0.75, "0.75", " 0.75\n", "7.5e-1"):
        assert read(KINDS[name], prob=value).prob == 0.75
    for value in NULL:
        assert math.isnan(read(KINDS[name], prob=value).prob)
    for value in (0.3, "0.3", 1.5, 75, "75%", "sure", [0.75], math.inf):
        with pytest.raises(Refusal, match=r"^Row 7 has prob = .*, but P\(chosen wins\) is a number in \[0.5, 1\]"):
            read(KINDS[name], prob=value)


def test_marks_of_two_pictures_in_every_type():
    kind = KINDS["HPDv2"]
    for true, false in product(TRUE, FALSE):
        for marks, first, prob in (
            ([true, false], "a.png", 1.0),
            ([false, true], "b.png", 1.0),
            ([true] * 2, "a.png", 0.5),
        ):
            row = read(kind, human_preference=marks)
            assert (row.candidates[0].value, row.prob) == (first, prob)
    for marks in ([0.8, 0.2], [1, None], [1, math.nan], [1], None, 1, "10", [1, "x"], [1, 0, 0]):
        with pytest.raises(Refusal, match=r"^Row 7 has file_path = .* HPDv2 needs two paths and two marks"):
            read(kind, human_preference=marks)
    for paths in (None, "ab", ["a"], []):
        with pytest.raises(Refusal, match=r"^Row 7 has file_path = .* HPDv2 needs two paths and two marks"):
            read(kind, file_path=paths)


def test_scores_of_users_in_every_type():
    kind = KINDS["RewardUsers"]
    for form in (float, str, lambda score: f" {score}\n"):
        row = read(kind, score_chosen=form(9.0), score_rejected=form(10.0))
        assert (row.scores, row.candidates, row.prob) == ((10.0, 9.0), ("rejected", "chosen"), 1.0)
    for nothing in NULL:
        assert (read(kind, score_chosen=nothing).prob, read(kind, score_chosen=nothing).scores) == (0.5, (0.0, 0.0))
    with pytest.raises(Refusal, match=r"^Row 7 has score_chosen = inf, of type float; it has to be a finite number"):
        read(kind, score_chosen=math.inf)


NUMBERS: dict[str, Callable[[float], Any]] = {"float": float, "text": str, "blanks": lambda number: f" {number}\n"}
BAD_NUMBERS = ["good", math.inf, "-inf", [1], {"a": 1}, "1,5"]


def having(**extra: Any) -> PairRow:
    return PairRow(7, ("a", "a"), ("x", "y"), extra=extra)


@pytest.mark.parametrize("form", NUMBERS)
def test_row_maps_read_numbers_in_every_type(form):
    write = NUMBERS[form]
    assert Weight()(having(weight=write(2.5)), DRAWS).weight == 2.5
    assert Weight()(having(weight=write(0.0)), DRAWS).weight == 0.0
    assert PerPrompt()(having(num_example_per_prompt=write(4.0)), DRAWS).weight == 0.25
    assert AtLeast("sure", 9.0)(having(sure=write(10.0)), DRAWS) is not None
    assert AtLeast("sure", 9.0)(having(sure=write(8.0)), DRAWS) is None
    scored = ScoreLabel(low=0.0, high=10.0)(having(score_chosen=write(9.0), score_rejected=write(10.0)), DRAWS)
    assert (scored.scores, scored.candidates) == ((10.0, 9.0), ("y", "x"))


@pytest.mark.parametrize(
    ("row_map", "column", "bad", "nothing_drops"),
    [
        (Weight(), "weight", [-1.0, "-0.5", *BAD_NUMBERS], False),
        (PerPrompt(), "num_example_per_prompt", [0, "0", -2, *BAD_NUMBERS], False),
        (AtLeast("sure", 0.5), "sure", BAD_NUMBERS, True),
        (ScoreLabel(columns=("good", "other")), "good", BAD_NUMBERS, True),
    ],
    ids=["Weight", "PerPrompt", "AtLeast", "ScoreLabel"],
)
def test_row_maps_refuse_what_is_no_such_number(row_map, column, bad, nothing_drops):
    for value in bad:
        with pytest.raises(Refusal, match=rf"^Row 7 has {column} = "):
            row_map(having(**{"other": 1.0, column: value}), DRAWS)
    for nothing in NULL:
        row = having(**{"other": 1.0, column: nothing})
        if nothing_drops:
            assert row_map(row, DRAWS) is None
        else:
            with pytest.raises(Refusal, match=f"needs column '{column}', row 7 has no value there"):
                row_map(row, DRAWS)
    with pytest.raises(Refusal, match=f"needs column '{column}', row 7 has no value there"):
        row_map(having(other=1.0), DRAWS)


def test_dual_captions_go_through_the_door():
    for value in NO_PROMPTS:
        with pytest.raises(
            Refusal, match=rf"^Row 7 has caption_rejected = .*, of type {type(value).__name__}; a prompt"
        ):
            DualCaptions()(having(caption_chosen="a", caption_rejected=value), DRAWS)
    row = DualCaptions()(having(caption_chosen=MARK + " a ", caption_rejected=["b", "c"]), DRAWS)
    assert row.prompts == ("a", Captions(["b", "c"]))
    assert row.notes == (SEVERAL, MARKED)


def ranked(path, ranks, **changed):
    n = len(ranks)
    data = {
        "prompt_id": ["p"] * n,
        "prompt": ["x"] * n,
        "image_path": [f"{rank}.png" for rank in ranks],
        "rank": ranks,
    }
    pq.write_table(pa.table(data | changed), path)
    return PairTable(Ranked(str(path)), [], seed=0)


@pytest.mark.parametrize("form", [int, float, str, lambda rank: f" {rank}.0 "], ids=["int", "float", "text", "blanks"])
def test_ranks_are_numbers_whatever_their_type_and_order(tmp_path, form):
    orders = list(permutations([1, 2, 10]))
    ranks = [rank for order in orders for rank in order]
    groups = {
        "prompt_id": [n for n in range(len(orders)) for _ in range(3)],
        "image_path": [f"{rank}" for rank in ranks],
    }
    table = ranked(tmp_path / "a.parquet", list(map(form, ranks)), prompt=["x"] * len(ranks), **groups)
    rows = [table[n] for n in range(len(table))]
    pairs = [tuple(candidate.read() for candidate in row.candidates) for row in rows]
    assert pairs == [("1", "2"), ("1", "10"), ("2", "10")] * len(orders)
    assert {row.prob for row in rows} == {1.0}


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_picture_without_a_rank_is_refused_wherever_it_stands(tmp_path, nothing):
    for number, order in enumerate(permutations([1.0, 2.0, nothing])):
        with pytest.raises(Refusal, match="A picture of the prompt 'x' has no rank"):
            ranked(
                tmp_path / f"{number}.parquet", pa.array(order, pa.float64(), from_pandas=False), image_path=["a"] * 3
            )


def test_ranks_that_are_no_numbers_and_groups_that_are_null_are_refused(tmp_path):
    with pytest.raises(Refusal, match=r"Row 1 has rank = 'second', of type str; it has to be a finite number"):
        ranked(tmp_path / "a.parquet", ["1", "second"])
    for nothing in (None, math.nan):
        with pytest.raises(Refusal, match=r"Row 1 has no prompt_id \(it is null\); drop that picture"):
            ranked(tmp_path / "b.parquet", [1, 2], prompt_id=pa.array([1.0, nothing], pa.float64(), from_pandas=False))


def test_prompts_of_rankings_may_be_several_captions(tmp_path):
    table = ranked(tmp_path / "a.parquet", [2, 1, 3], prompt=[["a", "b"], ["a", "b"], ["a", "c"]])
    assert [table[n].prompts[0] for n in range(len(table))] == [Captions(["a", "b"])]
    with pytest.raises(Refusal, match=r"Row 0 has prompt = 1, of type int; a prompt is a text"):
        ranked(tmp_path / "b.parquet", [2, 1], prompt=[1, 1])


def test_lists_of_ranks_in_every_type(tmp_path):
    for number, form in enumerate((int, float, str)):
        data = {"prompt": ["x"], "image_path": [["a", "b", "c"]], "rank": [list(map(form, [10, 2, 1]))]}
        pq.write_table(pa.table(data), tmp_path / f"{number}.parquet")
        table = PairTable(RankedLists(str(tmp_path / f"{number}.parquet")), [], seed=0)
        assert [candidate.read() for candidate in table[0].candidates] == ["c", "b"]
    for name, changed in (("fewer", {"rank": [[1, 2]]}), ("no list", {"rank": [1]}), ("null", {"image_path": [None]})):
        data = {"prompt": ["x"], "image_path": [["a", "b", "c"]], "rank": [[1, 2, 3]]}
        pq.write_table(pa.table(data | changed), tmp_path / f"{name}.parquet")
        with pytest.raises(Refusal, match="^Row 0 has image_path = .*; RankedLists needs a rank for each picture"):
            PairTable(RankedLists(str(tmp_path / f"{name}.parquet")), [], seed=0)


COLUMNS = {
    "int": pa.array([1, 2]),
    "float": pa.array([1.5, 2.5]),
    "bool": pa.array([True, False]),
    "bytes": pa.array([b"a", b"b"]),
    "large bytes": pa.array([b"a", b"b"], pa.large_binary()),
    "dict": pa.array([{"en": "a"}, {"en": "b"}]),
    "list": pa.array([[1, 2], [3]]),
    "chat": pa.array([[{"role": "user", "content": "a"}]] * 2),
    "json": pa.array(['[{"role": "user", "content": "a"}]'] * 2),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_training_refuses_such_columns_from_tables_and_streams(tmp_path, kind):
    table = pa.table({"prompt": COLUMNS[kind], "chosen": ["a.png"] * 2, "rejected": ["b.png"] * 2})
    pq.write_table(table, tmp_path / "a.parquet")
    for stream in (None, Stream(2)):
        data = PairData(Columns(str(tmp_path / "a.parquet")), [], Framing(16), workers=0, stream=stream)
        with pytest.raises(Refusal, match=r"^Row 0 has (prompt = |the prompt ).*, of type \w+; ") as caught:
            data.open(0)
        assert "\n" not in str(caught.value)


def test_a_column_of_pictures_is_no_column_of_prompts(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "chosen": [b"x"], "rejected": [b"y"]}), tmp_path / "a.parquet")
    for stream in (None, Stream(2)):
        data = PairData(Columns(str(tmp_path / "a.parquet"), prompt="chosen"), workers=0, stream=stream)
        with pytest.raises(Refusal, match=r"^Row 0 has chosen = 1 bytes, of type bytes; a prompt is a text"):
            data.open(0)


def test_unlabeled_rows_are_refused_until_a_map_drops_or_a_scorer_labels_them(tmp_path):
    data = {
        "jpg_0": ["a.png"] * 4,
        "jpg_1": ["b.png"] * 4,
        "label_0": [1.0, None, 0.5, None],
        "caption": list("abcd"),
        "score_chosen": [1.0, 1.0, 1.0, 0.0],
        "score_rejected": [0.0, 0.0, 0.0, 1.0],
    }
    pq.write_table(pa.table(data), tmp_path / "a.parquet")
    source = PickAPic(str(tmp_path / "a.parquet"))
    for maps in ([], [DropTies()], [ScoreLabel(keep_order=True)]):
        with pytest.raises(
            Refusal, match=r"2 of 4 rows have no label \(it is null\), the first is row 1; .*DropUnlabeled"
        ):
            PairTable(source, maps, seed=0)
    table = PairTable(source, [DropUnlabeled(), DropTies()], seed=0)
    assert (table.kept.tolist(), dict(table.dropped)) == ([0], {"DropUnlabeled": 2, "DropTies": 1})
    scored = PairTable(source, [ScoreLabel()], seed=0)
    assert [scored[n].candidates[0].column for n in range(4)] == ["jpg_0", "jpg_0", "jpg_0", "jpg_1"]
    stream = PairStream(source, [DropTies()], seed=0, buffer=4)
    third = next(islice(stream.visits(), 2, None))  # one pair is left in each epoch
    assert third.epoch == 2
    assert 4 <= third.dropped["a null label"] <= 6
    assert third.read == 3 + sum(third.dropped.values())


def test_notes_of_prompts_are_counted(tmp_path):
    prompts = [["a", "b"], [MARK + "a"], ["c"], ["d", "e"]]
    pq.write_table(
        pa.table({"prompt": prompts, "chosen": list("wxyz"), "rejected": list("WXYZ")}), tmp_path / "a.parquet"
    )
    table = PairTable(Columns(str(tmp_path / "a.parquet")), [], seed=0)
    assert dict(table.notes) == {SEVERAL: 2, MARKED: 1}
    assert table.several


def test_values_in_errors_are_short():
    for value in ("x" * 10**6, ["x" * 10**6] * 3, [["x"] * 10**4]):
        with pytest.raises(Refusal) as caught:
            read(KINDS["Columns"], prompt=[value, 1])
        assert len(str(caught.value)) < 300
        assert len(show_value(value)) <= 100


def test_weights_that_are_all_zero_are_refused(tmp_path):
    data = {"prompt": ["a", "b"], "chosen": ["w", "x"], "rejected": ["W", "X"], "weight": [0.0, 0.0], "other": [0, 1]}
    pq.write_table(pa.table(data), tmp_path / "a.parquet")
    source = Columns(str(tmp_path / "a.parquet"))
    with pytest.raises(Refusal, match="Each of 2 pairs has weight 0, so nothing would be learned"):
        PairTable(source, [Weight()], seed=0)
    assert len(PairTable(source, [Weight("other")], seed=0)) == 2
