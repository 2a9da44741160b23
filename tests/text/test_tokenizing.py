import pytest
from tiny_text import tokenizer

from diffpo.refusal import Refusal
from diffpo.text.completions import Completion, Segment
from diffpo.text.tokenizing import APART, COMPLETIONS, PARTS, PROMPTS, Tokenizing, counted


@pytest.fixture
def tokenizing():
    return Tokenizing(tokenizer())


def words(tokenizing, ids) -> list[str]:
    return tokenizing.tokenizer.convert_ids_to_tokens(list(ids))


def said(tokenizing, tokens) -> list[tuple[str, bool, int]]:
    names = words(tokenizing, [token.id for token in tokens.completion])
    return [(name, token.scored, token.part) for name, token in zip(names, tokens.completion, strict=True)]


def test_a_sequence_is_prompt_completion_and_its_end(tokenizing):
    tokens = tokenizing("is", "no")
    assert words(tokenizing, tokens.prompt) == ["<s>", "i", "s"]
    assert said(tokenizing, tokens) == [("n", True, 1), ("o", True, 1), ("</s>", True, 1)]


def test_a_token_belongs_to_the_piece_its_last_character_stands_in(tokenizing):
    pieces = Completion((Segment("a ", part=1), Segment("the", scored=False, part=0), Segment("b", part=2)))
    tokens = tokenizing("is", pieces)
    assert said(tokenizing, tokens) == [("a", True, 1), (" the", False, 0), ("b", True, 2), ("</s>", True, 2)]


def test_a_token_of_prompt_and_completion_is_split_and_counted(tokenizing):
    tokens = tokenizing("x", "y")
    assert words(tokenizing, tokens.prompt) == ["<s>", "x"]
    assert said(tokenizing, tokens)[0] == ("y", True, 1)
    assert counted([tokens]) == {APART: 1}


def test_a_part_inside_a_token_is_counted(tokenizing):
    tokens = tokenizing("is", Completion((Segment("t", part=1), Segment("he", part=2))))
    assert said(tokenizing, tokens)[0] == ("the", True, 2)
    assert counted([tokens]) == {PARTS: 1}


def test_a_chat_ends_as_its_template_says(tokenizing):
    tokens = tokenizing([{"role": "user", "content": "is"}], "no")
    assert words(tokenizing, tokens.prompt) == ["<s>", "<u>", "i", "s", "\n", "<a>"]
    assert said(tokenizing, tokens) == [("n", True, 1), ("o", True, 1), ("</s>", True, 1)]


def test_without_a_prompt_a_completion_follows_the_beginning_of_the_sequence(tokenizing):
    assert words(tokenizing, tokenizing("", "no").prompt) == ["<s>"]


def test_without_such_a_token_it_follows_the_end_of_another():
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = None
    bare.bos_token = None
    assert Tokenizing(bare)("", "no").prompt == (bare.eos_token_id,)


def test_prompts_are_cut_on_the_left_and_keep_what_begins_the_sequence(tokenizing):
    tokens = tokenizing("abcdef", "no").cut(3, 9, first=tokenizing.tokenizer.bos_token_id)
    assert words(tokenizing, tokens.prompt) == ["<s>", "e", "f"]
    assert tokens.notes == (PROMPTS,)


def test_completions_are_cut_on_the_right(tokenizing):
    tokens = tokenizing("a", "no").cut(9, 2)
    assert [name for name, _, _ in said(tokenizing, tokens)] == ["n", "o"]
    assert tokens.notes == (COMPLETIONS,)


def test_what_fits_is_not_cut(tokenizing):
    tokens = tokenizing("a", "no")
    assert tokens.cut(2, 3) == tokens


def test_a_tokenizer_needs_an_end_of_sequence():
    bare = tokenizer()
    bare.eos_token = None
    with pytest.raises(Refusal, match="set its eos_token"):
        Tokenizing(bare)


def test_padding_falls_back_to_the_end_of_a_sequence():
    bare = tokenizer()
    bare.pad_token = None
    assert Tokenizing(bare).pad == bare.eos_token_id
