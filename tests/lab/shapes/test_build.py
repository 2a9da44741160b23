from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from tiny import drawn, pipeline, tokenizer_of_captions
from transformers import CLIPTokenizer

from diffpo.lab.shapes.build import (
    build_tokenizer,
    encode,
    learn_merges,
    render_pictures,
    save_pipeline,
    train_base,
    train_vae,
    training_caption,
)
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES, read_caption
from diffpo.lab.shapes.scenes import random_attributes


def captions(n: int = 50) -> list[str]:
    rng = np.random.default_rng(1)
    return [family(random_attributes(rng)) for _ in range(n) for family in (*TRAINING_FAMILIES, EVALUATION_FAMILY)]


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_each_word_is_one_token():
    tokenizer = tokenizer_of_captions()
    for caption in captions():
        assert len(tokenizer(caption).input_ids) == len(caption.replace(",", " ,").split()) + 2


def test_captions_fit_and_come_back():
    tokenizer = tokenizer_of_captions()
    for caption in captions():
        ids = tokenizer(caption).input_ids
        assert len(ids) <= tokenizer.model_max_length
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == caption.replace(" ", "")


def test_unknown_words_become_letters():
    tokenizer = tokenizer_of_captions()
    assert len(tokenizer("zyx").input_ids) > 3
    assert tokenizer.decode(tokenizer("zyx").input_ids, skip_special_tokens=True) == "zyx"


def test_the_tokenizer_survives_its_files(tmp_path):
    tokenizer_of_captions().save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again(captions()).input_ids == tokenizer_of_captions()(captions()).input_ids


def test_the_tokenizer_is_the_same_each_time():
    assert build_tokenizer().get_vocab() == tokenizer_of_captions().get_vocab()


def test_the_most_frequent_pair_is_merged_first_and_ties_follow_the_alphabet():
    merges = learn_merges(Counter({"aab": 2, "ab": 1}))
    assert merges == [("a", "b</w>"), ("a", "ab</w>")]
    assert learn_merges(Counter({"cd": 1, "ab": 1})) == [("a", "b</w>"), ("c", "d</w>")]


def test_pictures_fill_the_range():
    rng = np.random.default_rng(0)
    shown = render_pictures([random_attributes(rng) for _ in range(20)], rng)
    assert shown.shape == (20, 3, 32, 32)
    assert -1 <= shown.min() < -0.8
    assert 0.8 < shown.max() <= 1


def test_encoding_does_not_depend_on_parts():
    vae, shown = pipeline().vae, torch.rand(130, 3, 32, 32)
    means, deviations = encode(vae, shown)
    alone, _ = encode(vae, shown[128:])
    torch.testing.assert_close(means[128:], alone)
    assert means.shape == deviations.shape == (130, 4, 8, 8)


def test_training_captions_are_read_or_empty():
    rng = np.random.default_rng(0)
    shown = random_attributes(rng, sized=1.0)
    written = [training_caption(shown, rng) for _ in range(1000)]
    stated = [len(read_caption(caption).stated()) for caption in written if caption]
    assert written.count("") / 1000 == pytest.approx(0.1, abs=0.03)
    assert stated.count(4) / len(stated) == pytest.approx(0.1, abs=0.03)
    assert set(stated) == {4, 5}


def test_a_vae_depends_on_its_seed_alone():
    one = train_vae(steps=2, batch=2)
    torch.rand(3)
    other = train_vae(steps=2, batch=2)
    assert torch.equal(weights(one), weights(other))
    assert one.config.scaling_factor == other.config.scaling_factor
    means, _ = encode(
        one, render_pictures([random_attributes(np.random.default_rng(9))] * 64, np.random.default_rng(9))
    )
    assert means.std().item() * one.config.scaling_factor == pytest.approx(1, abs=0.3)


def test_a_base_depends_on_its_seed_alone():
    def base(seed: int):
        torch.rand(3)
        return train_base(pipeline().vae, tokenizer_of_captions(), steps=2, batch=2, scenes=4, seed=seed)

    one, same, other = base(0), base(0), base(1)
    for part in ("unet", "text_encoder"):
        assert torch.equal(weights(getattr(one, part)), weights(getattr(same, part)))
        assert not torch.equal(weights(getattr(one, part)), weights(getattr(other, part)))


def test_what_is_shipped_draws_what_it_drew(tmp_path):
    pipe = pipeline()
    before = drawn(pipe).astype(int)
    save_pipeline(pipe, tmp_path)
    shipped = StableDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert abs(drawn(shipped).astype(int) - before).max() <= 2


def test_networks_are_shipped_in_half_precision_and_the_text_encoder_is_not(tmp_path):
    save_pipeline(pipeline(), tmp_path)
    kinds = {
        part: {tensor.dtype for tensor in load_file(next((tmp_path / part).glob("*.safetensors"))).values()}
        for part in ("unet", "vae", "text_encoder")
    }
    assert kinds == {"unet": {torch.float16}, "vae": {torch.float16}, "text_encoder": {torch.float32}}
