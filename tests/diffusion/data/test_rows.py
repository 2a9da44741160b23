import json
from pathlib import Path

import pytest
from shards import png
from tiny import draws

from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.rows import PairRow
from diffpo.data.typed import Captions
from diffpo.diffusion.data.pairs import MinSize, TextPrompts

LARGE, SMALL = png(size=(40, 33)), png(size=(31, 64))


def row(*values):
    return PairRow(0, ("p",) * len(values), tuple(Held(value, Path()) for value in values))


@pytest.mark.parametrize(("values", "kept"), [((LARGE, LARGE), True), ((LARGE, SMALL), False), ((SMALL,), False)])
def test_the_short_side_of_every_picture_counts(values, kept):
    assert (MinSize(32)(row(*values), draws(1)) is None) != kept


def test_only_headers_are_read():
    header = LARGE[:60]  # too little to decode
    assert MinSize(34)(row(header), draws(1)) is None


@pytest.mark.parametrize("value", [b"no picture", None, "nowhere.png"])
def test_what_cannot_be_read_stays_to_be_counted_later(value):
    broken = row(value, SMALL)
    assert MinSize(32)(broken, draws(1)) is broken


def test_a_side_of_nothing_is_refused():
    with pytest.raises(Refusal, match="at least 1 pixel, got 0"):
        MinSize(0)


@pytest.mark.parametrize("prompt", ["a dog", "", None, "[blue:green:0.5] {red}", '["a"]', Captions(["a", "[b]"])])
def test_plain_texts_are_prompts_of_pictures(prompt):
    row = PairRow(0, (prompt, prompt), ("x", "y"))
    assert TextPrompts()(row, draws(1)) is row


CHAT = [{"role": "user", "content": "a dog"}]


@pytest.mark.parametrize(
    "prompt", [CHAT, json.dumps(CHAT), f" {json.dumps(CHAT[0], indent=1)}", Captions(["a", json.dumps(CHAT)]), 7]
)
def test_chats_are_no_prompts_of_pictures(prompt):
    with pytest.raises(Refusal, match=r"^Row 3 has the prompt .*, of type \w+; pictures are made for plain texts"):
        TextPrompts()(PairRow(3, ("a", prompt), ("x", "y")), draws(1))
