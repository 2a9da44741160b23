from itertools import islice

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from diffpo.lab.rewrites.build import build_tokenizer, careless, conversations, tokenize_turns, train_language_model
from diffpo.lab.rewrites.oracle import FAMILIES, kept, read_rewrite
from diffpo.lab.rewrites.requests import EVALUATION_REQUEST, TRAINING_REQUESTS, list_requests, prompt
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.scenes import Attributes, random_attributes


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_request_and_caption_survives_the_tokenizer(tokenizer):
    rng = np.random.default_rng(1)
    texts = [prompt(asked, family) for asked in list_requests() for family in (*TRAINING_REQUESTS, EVALUATION_REQUEST)]
    texts += [family(random_attributes(rng)) for family in FAMILIES[:-1] for _ in range(50)]
    ids = tokenizer(texts).input_ids
    assert not any(tokenizer.unk_token_id in each for each in ids)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts


def test_a_word_is_a_token_and_the_beginning_is_marked(tokenizer):
    ids = tokenizer("a red circle, small:").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "a", "red", "circle", ",", "small", ":"]


def test_messages_are_written_as_plain_prompts_are(tokenizer):
    messages = [{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": "red circle, left"}]
    written = tokenizer.apply_chat_template(messages, tokenize=False)
    plain = [*tokenizer("a red circle:").input_ids, *tokenizer("red circle, left", add_special_tokens=False).input_ids]
    assert tokenizer(written, add_special_tokens=False).input_ids == [*plain, tokenizer.eos_token_id]


def test_the_tokenizer_is_the_same_each_time_and_comes_back_from_disk(tokenizer, tmp_path):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a red circle:").input_ids == tokenizer("a red circle:").input_ids
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_a_careless_rewrite_is_full_and_one_in_four_changes_one_attribute():
    asked, rng = Attributes("red", "circle", size="small"), np.random.default_rng(0)
    written = [careless(asked, rng) for _ in range(1000)]
    shares = [kept(asked, each) for each in written]
    assert set(np.round(shares, 6)) == {1.0, round(2 / 3, 6)}
    assert np.mean([share < 1 for share in shares]) == pytest.approx(0.25, abs=0.04)
    assert all(each.background and each.position for each in written)


def test_what_is_open_is_drawn_at_random():
    rng = np.random.default_rng(0)
    drawn = [careless(Attributes("red"), rng, slip=0.0) for _ in range(1000)]
    assert {each.color for each in drawn} == {"red"}
    assert [len({getattr(each, name) for each in drawn}) for name in ("shape", "background", "position")] == [4, 5, 5]
    assert np.mean([each.size is None for each in drawn]) == pytest.approx(0.5, abs=0.05)


def test_examples_are_conversations_of_requests_and_full_captions():
    rows = list(islice(conversations(list_requests(), np.random.default_rng(0)), 400))
    turns = [turn for row in rows for turn in row]
    assert all(read_rewrite(rewrite) and read_caption(request).stated() for request, rewrite in turns)
    shares = [np.mean([len(row) == n for row in rows]) for n in (1, 2, 3)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.07)


def test_only_rewrites_are_learned(tokenizer):
    ids, labels = tokenize_turns(
        tokenizer, [[("a red circle:", "a red")], [("a:", "red circle"), ("a blue:", "left")]]
    )
    assert ids.shape == labels.shape == (2, 11)
    learned = [tokenizer.convert_ids_to_tokens(row[row != -100].tolist()) for row in labels]
    assert learned == [["a", "red", "</s>"], ["red", "circle", "</s>", "left", "</s>"]]
    assert torch.equal(ids[labels != -100], labels[labels != -100])


def test_a_conversation_is_trained_as_the_template_writes_it(tokenizer):
    messages = [{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": "red circle, left"}] * 2
    ids, _ = tokenize_turns(tokenizer, [[("a red circle:", "red circle, left")] * 2])
    written = tokenizer.apply_chat_template(messages, tokenize=False)
    assert ids[0].tolist() == tokenizer(written, add_special_tokens=False).input_ids


def test_training_starts_the_same_each_time_and_learns(tokenizer):
    first, again = (train_language_model(tokenizer, list_requests(), steps=3, batch=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert 1e6 < sum(p.numel() for p in first.parameters()) < 3e6
