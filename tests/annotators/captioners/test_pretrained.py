import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_speakers import llama, t5

from diffpo.annotators.captioners.chat import ChatPerturber
from diffpo.annotators.captioners.dipper import Dipper
from diffpo.annotators.captioners.pretrained import Keyed
from diffpo.annotators.captioners.roles import Strength
from diffpo.core.refusal import Refusal

CPU = torch.device("cpu")
TEXTS = ["a red circle", "a blue circle on the left"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"))


def test_keyed_noise_draws_from_the_distribution():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(4000, 3)
    drawn = Keyed(range(4000), CPU)(torch.zeros(4000, 1, dtype=torch.long), logits).argmax(1)
    shares = drawn.bincount(minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.03, rtol=0)


def test_noise_goes_on_from_token_to_token_and_depends_on_the_seed_alone():
    tokens, logits = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 5)
    both, second = Keyed([1, 2], CPU), Keyed([2], CPU)
    steps = [both(tokens, logits) for _ in range(2)]
    assert not torch.equal(*steps)
    assert all(torch.equal(step[1:], second(tokens[:1], logits[:1])) for step in steps)


def test_what_cannot_be_drawn_stays_so():
    logits = torch.tensor([[0.0, -torch.inf]])
    assert Keyed([3], CPU)(torch.zeros(1, 1, dtype=torch.long), logits)[0, 1] == -torch.inf


def test_the_same_seed_says_the_same_in_other_company(model):
    speaker = ChatPerturber(str(model), max_tokens=6, temperature=1.0)
    together = speaker(TEXTS, Strength.weak, [1, 2])
    assert speaker(TEXTS[1:], Strength.weak, [2]) == together[1:]
    assert ChatPerturber(str(model), max_tokens=6, temperature=1.0, batch_size=1)(TEXTS, Strength.weak, [1, 2]) == (
        together
    )
    assert speaker(TEXTS, Strength.weak, [3, 4]) != together


def test_at_temperature_zero_seeds_change_nothing(model):
    speaker = ChatPerturber(str(model), max_tokens=6, temperature=0.0)
    assert speaker(TEXTS, Strength.weak, [1, 2]) == speaker(TEXTS, Strength.weak, [3, 4])


def test_after_a_rest_it_speaks_again(model):
    speaker = ChatPerturber(str(model), max_tokens=6)
    before = speaker(TEXTS, Strength.weak, [1, 2])
    speaker.rest()
    assert "network" not in vars(speaker)
    assert speaker(TEXTS, Strength.weak, [1, 2]) == before


def test_the_wrong_kind_of_model_is_told_without_its_weights(model, tmp_path):
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    with pytest.raises(Refusal, match="is a llama, Dipper needs an encoder-decoder model; name another one"):
        Dipper(str(tmp_path)).check()
    with pytest.raises(Refusal, match="Cannot load a language model from 'no/such'"):
        ChatPerturber("no/such").check()
    with pytest.raises(Refusal, match=r"needs temperature >= 0 and top_p in \(0, 1\], got 0.7 and 0.0"):
        ChatPerturber(str(tmp_path), top_p=0.0).check()


def test_missing_weights_are_told(tmp_path):
    folder = t5(tmp_path / "t5")
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    speaker = Dipper(str(folder), vocabulary=str(folder))
    with pytest.raises(Refusal, match="not hold an encoder-decoder model: 1 of its .*, the first is dec"):
        speaker(["a"], Strength.weak, [0])


def test_what_the_texts_depend_on(model):
    told = ChatPerturber("a", revision="b", temperature=0.5).identity
    assert {"kind": "ChatPerturber", "model_id": "a@b", "temperature": 0.5, "top_p": 1.0}.items() <= told.items()
    assert len(told["instructions"]) == 3
