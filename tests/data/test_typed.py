import json
import math
import pickle
from decimal import Decimal

import numpy as np
import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.typed import (
    MARK,
    MARKED,
    SEVERAL,
    Captions,
    Field,
    is_null,
    list_captions,
    read_prompts,
    show_value,
    texts_of,
)

RNG = np.random.default_rng(0)
NUMBERS = [0.0, 1.0, 0.5, *RNG.normal(0, 100, 5).round(3).tolist(), *map(float, RNG.integers(-99, 99, 5))]
FORMS = {
    "float": float,
    "text": str,
    "text with blanks": lambda number: f" \t{number}\r\n",
    "decimal": lambda number: Decimal(str(number)),
    "numpy": np.float64,
}
NOTHING = [None, math.nan, np.float32("nan"), Decimal("nan"), "", " \n", "nan", "NaN"]
NO_NUMBERS = ["good", "1-2", "50%", "0,5", math.inf, "-inf", 10**400, Decimal("inf"), [1], [], {"a": 1}, b"\xff", {1}]
NO_PROMPTS = [7, 7.5, math.inf, True, b"a red circle", {"en": "a"}, [1, 2], ["a", None], [["a"]], [{"en": "a"}], {"a"}]


def field(value):
    return Field(3, "column", value)


@pytest.mark.parametrize("form", FORMS)
def test_a_number_is_the_same_in_every_form(form):
    assert [field(FORMS[form](number)).number() for number in NUMBERS] == NUMBERS


@pytest.mark.parametrize(("words", "number"), [("true True TRUE yes 1", 1), ("false False no No 0 -0", 0)])
def test_words_and_truths_are_one_and_zero(words, number):
    forms = [*words.split(), f" {words.split()[0]}\n", bool(number), np.bool_(number), np.int8(number)]
    assert {field(form).number() for form in forms} == {field(form).verdict((0, 1), "") for form in forms} == {number}


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_null_and_what_pandas_makes_of_it_say_nothing(nothing):
    assert field(nothing).number() is None
    assert field(nothing).verdict((0, 1), "") is None


@pytest.mark.parametrize("value", NO_NUMBERS, ids=show_value)
def test_what_is_no_finite_number_is_refused_in_a_line(value):
    with pytest.raises(Refusal, match=r"Row 3 has column = .*, of type \w+; it has to be a finite number") as caught:
        field(value).number()
    assert "\n" not in str(caught.value)
    with pytest.raises(Refusal, match=r"Row 3 has column = .*; true or false"):
        field(value).verdict((0, 1), "true or false")


def test_a_number_that_is_no_verdict_is_refused():
    with pytest.raises(Refusal, match=r"^Row 3 has column = '0.7'; 0 or 1 is wanted$"):
        field("0.7").verdict((0, 1), "0 or 1 is wanted")


@pytest.mark.parametrize("value", NO_PROMPTS, ids=show_value)
def test_what_is_no_prompt_is_refused_by_row_column_and_type(value):
    for read in (
        field(value).prompt,
        field(value).caption,
        lambda: read_prompts(3, {"column": value}, "column", "column"),
    ):
        with pytest.raises(
            Refusal, match=rf"^Row 3 has column = .*, of type {type(value).__name__}; a prompt is a text"
        ):
            read()


def test_a_chat_is_a_prompt_of_texts_but_no_caption():
    chat = [{"role": "user", "content": "hi"}]
    assert field(chat).prompt() is chat
    assert read_prompts(0, {"p": chat}, "p") == {"prompts": (chat,), "notes": ()}
    with pytest.raises(Refusal, match=r"Row 3 has column = \[\{.*, of type list; a prompt is"):
        field(chat).caption()


@pytest.mark.parametrize(
    ("value", "prompt"),
    [
        ("a red dot", "a red dot"),
        ("", ""),
        (" a\u2028b ", " a\u2028b "),
        (MARK + "a", "a"),
        (["a"], Captions(["a"])),
        ([], None),
        (None, None),
        (math.nan, None),
        (["a", MARK + "b"], Captions(["a", "b"])),
        (("a", "b"), Captions(["a", "b"])),
    ],
)
def test_prompts(value, prompt):
    assert field(value).prompt() == prompt
    assert type(field(value).prompt()) is type(prompt)


def test_what_was_made_of_prompts_is_noted():
    record = {"plain": "a", "marked": MARK + "b", "list": ["c", "d"], "both": [MARK + "e", "f"]}
    said = {name: read_prompts(0, record, name) for name in record}
    assert {name: found.get("notes", ()) for name, found in said.items()} == {
        "plain": (),
        "marked": (MARKED,),
        "list": (SEVERAL,),
        "both": (SEVERAL, MARKED),
    }
    assert read_prompts(0, record, "plain", "marked")["prompts"] == ("a", "b")


def test_of_several_captions_each_visit_draws_one():
    several = Captions(["a", "b", "c"])
    drawn = {(epoch, row): several.drawn(Draws(0, (epoch,), (row,))) for epoch in range(20) for row in range(5)}
    assert set(drawn.values()) == {"a", "b", "c"}
    assert all(several.drawn(Draws(0, (epoch,), (row,))) == text for (epoch, row), text in drawn.items())
    assert len({drawn[epoch, 0] for epoch in range(20)}) == 3


def test_captions_of_two_sides_are_drawn_alike():
    draws = [Draws(1, (epoch,), (7,)) for epoch in range(20)]
    one, two = Captions("abcd"), Captions("ABCD")
    assert [one.drawn(d).upper() for d in draws] == [two.drawn(d) for d in draws]


def test_several_captions_as_a_text_are_the_first():
    several = Captions(["a", "b"])
    assert str(several) == f"{several}" == "a"
    assert json.dumps(several) == '["a", "b"]'
    assert pickle.loads(pickle.dumps(several)) == several
    assert (list_captions(several), list_captions("a")) == (("a", "b"), ("a",))


def test_texts_of_a_value():
    assert texts_of(["a", MARK + "b"]) == ("a", "b")
    assert texts_of("a") == ("a",)
    assert texts_of(None) == ()
    assert texts_of(1) is texts_of({"a": "b"}) is None


@pytest.mark.parametrize("kind", [str, bytes, list, dict, tuple, np.ndarray, Decimal])
def test_never_more_of_a_value_is_shown_than_fits_on_a_line(kind):
    values = {
        str: "x" * 10**6,
        bytes: b"x" * 10**6,
        list: [["x" * 1000] * 1000] * 3,
        dict: {"x" * 500: "y" * 500},
        tuple: ("x" * 1000,) * 6,
        np.ndarray: np.zeros((300, 300)),
        Decimal: Decimal("1" * 1000),
    }
    assert len(show_value(values[kind])) <= 100
    with pytest.raises(Refusal) as caught:
        Field(0, "c", [values[kind], 1]).prompt()
    assert len(str(caught.value)) < 300


def test_nulls():
    assert all(map(is_null, (None, math.nan, np.float64("nan"))))
    assert not any(map(is_null, (0, "", "nan", [], 1.5)))
