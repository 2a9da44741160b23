import pytest
import torch
from tiny import pipeline, pipeline_xl

from diffpo.diffusion.data import prompt_states
from diffpo.diffusion.data.prompt_states import PROMPTS, PromptStates
from diffpo.diffusion.encode import prompt_shards
from diffpo.diffusion.encode.prompt_shards import PromptShards
from diffpo.diffusion.families.sd import SD
from diffpo.diffusion.families.sdxl import SDXL
from diffpo.diffusion.model.conditioning import Conditioner

TEXTS = ["", "a red circle", "a blue cross on the left", "a red circle " * 20]


def stored(folder, conditioner, dtype="float32") -> PromptStates:
    shards = PromptShards(TEXTS, conditioner, batch_size=3)
    list(shards.write(list(shards.files), folder, silent=True))
    states = list(shards.empty["prompt"].shape[1:])
    return PromptStates(folder, {"dtype": dtype, "states": states, "files": {PROMPTS: len(shards.files)}})


@pytest.mark.parametrize(
    "conditioner", [Conditioner(SD(), pipeline()), Conditioner(SDXL(), pipeline_xl())], ids=["one", "two"]
)
def test_states_are_found_as_they_were(tmp_path, conditioner):
    table, expected = stored(tmp_path, conditioner), conditioner.states(TEXTS)
    for n, prompt in enumerate(TEXTS):
        found = table.find(prompt)
        torch.testing.assert_close(found["prompt"][0], expected["prompt"][n])
        if "pooled" not in expected:
            assert "pooled" not in found
        else:
            torch.testing.assert_close(found["pooled"][0], expected["pooled"][n])


def test_bfloat16_states_keep_their_bits(tmp_path):
    parts = pipeline()
    parts.text_encoder.to(torch.bfloat16)
    found = stored(tmp_path, Conditioner(SD(), parts), "bfloat16").find("a red circle")["prompt"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, Conditioner(SD(), parts).states(["a red circle"])["prompt"])


def test_what_was_not_encoded_is_not_found(tmp_path):
    assert stored(tmp_path, Conditioner(SD(), pipeline())).find("a green circle") is None


def test_prompts_whose_hashes_collide_are_told_apart_by_their_text(tmp_path, monkeypatch):
    for module in (prompt_states, prompt_shards):
        monkeypatch.setattr(module, "key_of", lambda prompt: 7)
    conditioner = Conditioner(SD(), pipeline())
    table = stored(tmp_path, conditioner)
    torch.testing.assert_close(table.find(TEXTS[2])["prompt"], conditioner.states([TEXTS[2]])["prompt"])
    assert table.find("another") is None


def test_truncated_prompts_are_marked_and_memory_holds_two_integers_per_prompt(tmp_path):
    table = stored(tmp_path, Conditioner(SD(), pipeline()))
    assert table.table["truncated"][:] == [False, False, False, True]
    assert table.keys.nbytes + table.order.nbytes == 16 * len(TEXTS)
    assert (table.keys[1:] >= table.keys[:-1]).all()
