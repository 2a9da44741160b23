from dataclasses import replace

import pytest
import torch
from tiny_text import language_model

from diffpo.core.refusal import Refusal
from diffpo.lab.rewrites.writing import Writing, write

PROMPTS = ["a red circle:", "something blue at the top:", "cross:"]
WRITING = Writing(rewrites=3, tokens=6)


def test_each_prompt_gets_its_rewrites(model, tokenizer):
    written = write(model, tokenizer, PROMPTS, WRITING)
    assert [len(texts) for texts in written] == [3, 3, 3]
    assert len({text for texts in written for text in texts}) == 9


def test_a_rewrite_does_not_depend_on_its_batch(model, tokenizer):
    whole = write(model, tokenizer, PROMPTS, WRITING)
    assert write(model, tokenizer, PROMPTS, replace(WRITING, batch_size=1)) == whole
    assert write(model, tokenizer, PROMPTS[:2], WRITING) == whole[:2]


def test_another_seed_writes_something_else(model, tokenizer):
    assert write(model, tokenizer, PROMPTS, replace(WRITING, seed=1)) != write(model, tokenizer, PROMPTS, WRITING)


def test_at_temperature_near_zero_all_rewrites_are_the_likeliest(model, tokenizer):
    written = write(model, tokenizer, PROMPTS, replace(WRITING, temperature=1e-6))
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        for _ in range(WRITING.tokens):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    greedy = tokenizer.decode(ids[0, -WRITING.tokens :], skip_special_tokens=True)
    assert written[0] == [greedy] * 3


def test_a_rewrite_stops_at_the_end_of_its_sequence(model, tokenizer, monkeypatch):
    """A model whose likeliest token is always the end writes nothing."""
    ending = language_model(vocabulary=len(tokenizer)).eval()
    ending.lm_head = torch.nn.Linear(16, len(tokenizer))
    torch.nn.init.zeros_(ending.lm_head.weight)
    ending.lm_head.bias.data = 1e3 * (torch.arange(len(tokenizer)) == tokenizer.eos_token_id).float()
    assert write(ending, tokenizer, PROMPTS, WRITING) == [[""] * 3] * 3


def test_impossible_settings_are_refused():
    with pytest.raises(Refusal, match="Writing needs positive counts and a positive temperature"):
        Writing(rewrites=0)
    with pytest.raises(Refusal, match="temperature=0"):
        Writing(temperature=0.0)
