import pytest
from tiny_templates import BARE, TEMPLATES, THINKING, assistant, templated, turn, user
from tiny_text import tokenizer
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from diffpo.core.refusal import Refusal
from diffpo.text.data.chat import BEGUN, ENDED
from diffpo.text.data.completions import Completion, Segment
from diffpo.text.data.tokenizing import APART, COMPLETIONS, PARTS, PROMPTS, UNKNOWN, Tokenizing, count_notes


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
    assert count_notes([tokens]) == {APART: 1}


def test_a_part_inside_a_token_is_counted(tokenizing):
    tokens = tokenizing("is", Completion((Segment("t", part=1), Segment("he", part=2))))
    assert said(tokenizing, tokens)[0] == ("the", True, 2)
    assert count_notes([tokens]) == {PARTS: 1}


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


CHATS = {
    "one turn": ([user("is it?")], "yes, it is"),
    "three turns": ([user("is it?"), assistant("yes"), user("why?")], "so\nso"),
    "with a system": ([turn("system", "be brief"), user("is it?")], "yes"),
}


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_that_was_templated_beforehand_is_the_same_tokens(template, chat, begins):
    tokenizing, (prompt, answer) = Tokenizing(templated(template, begins)), chat
    if template == TEMPLATES["strict"] and prompt[0]["role"] == "system":
        with pytest.raises(Refusal, match="roles must alternate"):
            tokenizing(prompt, answer)
        return
    written = tokenizing.tokenizer.apply_chat_template
    whole = written([*prompt, assistant(answer)], tokenize=False)
    opening = written(prompt, tokenize=False, add_generation_prompt=template != THINKING)
    opening += "[assistant]" * (template == THINKING)
    plain, messages = tokenizing(opening, whole.removeprefix(opening)), tokenizing(prompt, answer)
    bos, eos = tokenizing.tokenizer.bos_token_id, tokenizing.tokenizer.eos_token_id
    added = (bos,) * (begins and messages.prompt[0] != bos)  # as before any plain text
    assert (plain.prompt, plain.completion) == (added + messages.prompt, messages.completion)
    ids = [*plain.prompt, *(token.id for token in plain.completion)]
    assert ids[1:].count(bos) == 0
    assert ids[-1] == eos != ids[-2]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_contents_in_parts_are_refused_unless_they_were_joined(template):
    with pytest.raises(Refusal, match="part of type 'image'"):
        Tokenizing(templated(template))([user([{"type": "image"}])], "yes")


def test_a_beginning_that_texts_have_themselves_is_there_once_and_counted():
    tokenizing = Tokenizing(templated(None))
    twice, once = tokenizing("<s>Hi:", " yes"), tokenizing("Hi:", " yes")
    assert (twice.prompt, twice.completion) == (once.prompt, once.completion)
    assert (count_notes([twice]), count_notes([once])) == ({BEGUN: 1}, {})
    answer = tokenizing("Hi:", "<s> yes</s>")
    assert (answer.prompt, answer.completion, count_notes([answer])) == (
        once.prompt,
        once.completion,
        {BEGUN: 1, ENDED: 1},
    )
    alone = tokenizing("", "<s>yes")
    assert (alone.prompt, alone.completion) == (tokenizing("", "yes").prompt, tokenizing("", "yes").completion)


@pytest.mark.parametrize("end", ["</s>", "</s></s>", "</s>\n", "</s> </s>\n\n"])
def test_an_end_that_texts_have_themselves_is_there_once_and_counted(end):
    tokenizing = Tokenizing(templated(None))
    twice = tokenizing("Hi:", f" yes{end}")
    assert twice.completion == tokenizing("Hi:", " yes").completion
    assert count_notes([twice]) == {ENDED: 1}


def test_an_end_inside_an_answer_stays():
    tokenizing = Tokenizing(templated(None))
    tokens = tokenizing("Hi:", "a</s>b")
    assert [token.id for token in tokens.completion].count(tokenizing.tokenizer.eos_token_id) == 2
    assert not tokens.notes


def test_a_beginning_in_the_first_message_is_there_once():
    tokens = Tokenizing(templated("{{ bos_token }}" + BARE.replace("[{{ m['role'] }}]", "")))([user("<s>a")], "b")
    assert count_notes([tokens]) == {BEGUN: 1}


def test_what_has_no_token_is_counted(tokenizing):
    assert count_notes([tokenizing("is", "NO")]) == {UNKNOWN: 1}
    assert count_notes([tokenizing("is", "no")]) == {}


def test_a_token_that_also_begins_sequences_says_nothing_of_unknown_ones():
    tokenizer = templated(None)
    tokenizer.unk_token = "<s>"
    assert count_notes([Tokenizing(tokenizer)("is", "no")]) == {}


def empty(**more) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE(unk_token="<unk>", **more))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")


def deaf() -> PreTrainedTokenizerFast:
    """Knows letters, and hears none of them."""
    found = empty(vocab={"a": 0, "b": 1}, merges=[])
    found.backend_tokenizer.normalizer = normalizers.Replace("", "")
    found.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("a", ""), normalizers.Replace("b", "")]
    )
    return found


@pytest.mark.parametrize("make", [empty, deaf])
def test_a_tokenizer_that_splits_all_texts_alike_is_refused(make):
    with pytest.raises(Refusal, match=r"tells no texts apart .*; fetch its files again \(tokenizer\.json"):
        Tokenizing(make())


def test_a_token_that_the_network_does_not_know_is_refused_wherever_it_comes(tokenizing):
    known = Tokenizing(tokenizing.tokenizer, known=len(tokenizing.tokenizer))
    tokens = known("x", "xy the")
    last = max(token.id for token in tokens.completion)
    for prompt, answer in (("x", "xy the"), ("xy the", "x")):
        with pytest.raises(Refusal, match=f"gives token {last} \\('.*'\\), the network has {last}; name a base"):
            Tokenizing(tokenizing.tokenizer, known=last)(prompt, answer)


def test_padding_that_the_network_does_not_know_is_refused():
    tokenizer = templated(None)
    known = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(Refusal, match=rf"gives token {known} \('\[PAD\]'\), the network has {known}"):
        Tokenizing(tokenizer, known=known)
