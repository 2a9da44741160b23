"""Half a folder of a tokenizer gives the right tokens, or is one line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import text_config, tokenizer_of_captions
from transformers import CLIPTokenizer

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.tokenizers import knows_its_words, load_tokenizer, require_one_length

PROMPT = "a red circle on the left"
ENCODER = SimpleNamespace(config=text_config())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    tokenizer_of_captions().save_pretrained(root / "tokenizer")
    return root


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def load(folder: Path, encoder=ENCODER):
    return load_tokenizer(CLIPTokenizer, str(folder), "tokenizer", encoder)


def edited(folder: Path, file: str, change) -> None:
    place = folder / "tokenizer" / file
    place.write_text(json.dumps(change(json.loads(place.read_text()))))


def as_vocabulary(folder: Path, merges: bool = True) -> None:
    """The layout of the first Stable Diffusion."""
    place = folder / "tokenizer"
    model = json.loads((place / "tokenizer.json").read_text())["model"]
    (place / "tokenizer.json").unlink()
    (place / "vocab.json").write_text(json.dumps(model["vocab"]))
    if merges:
        pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        (place / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")


def test_a_whole_folder_gives_its_tokens_and_says_nothing(whole, caplog):
    assert load(whole)(PROMPT).input_ids == tokenizer_of_captions()(PROMPT).input_ids
    assert load(whole).model_max_length == 24
    assert not caplog.messages


def test_the_layout_of_old_bases_gives_the_same_tokens(folder, whole):
    as_vocabulary(folder)
    assert load(folder)(PROMPT).input_ids == load(whole)(PROMPT).input_ids


LENGTHS = [None, 10**30, 200, 25, 0, -1, 1e30, "24"]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_the_encoder_cannot_read_becomes_its_own_and_is_told(folder, whole, length, caplog):
    edited(folder, "tokenizer_config.json", lambda config: config | {"model_max_length": length})
    tokenizer = load(folder)
    assert tokenizer.model_max_length == 24
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    assert tokenizer(PROMPT, **options).input_ids == load(whole)(PROMPT, **options).input_ids
    assert sum(f"{folder}/tokenizer says no model_max_length" in told for told in caplog.messages) == 1


def test_a_length_that_is_absent_becomes_the_encoders_and_is_told(folder, caplog):
    edited(folder, "tokenizer_config.json", lambda c: {n: v for n, v in c.items() if n != "model_max_length"})
    assert load(folder).model_max_length == 24
    assert len(caplog.messages) == 1


def test_a_shorter_length_is_the_bases_own_choice(folder, caplog):
    edited(folder, "tokenizer_config.json", lambda config: config | {"model_max_length": 12.0})
    assert load(folder).model_max_length == 12
    assert not caplog.messages


def gone(*files):
    def change(folder):
        for file in files:
            (folder / "tokenizer" / file).unlink()

    return change


def written(file, content):
    return lambda folder: (folder / "tokenizer" / file).write_text(content)


def without_merges(folder):
    edited(folder, "tokenizer.json", lambda c: c | {"model": c["model"] | {"merges": []}})


def half_of_the_words(folder):
    edited(
        folder,
        "tokenizer.json",
        lambda c: c | {"model": c["model"] | {"vocab": dict(list(c["model"]["vocab"].items())[:300]), "merges": []}},
    )


DAMAGES = {
    "no vocabulary": gone("tokenizer.json"),
    "no settings": gone("tokenizer_config.json"),
    "nothing": gone("tokenizer.json", "tokenizer_config.json"),
    "no folder": lambda folder: shutil.rmtree(folder / "tokenizer"),
    "vocab.json without merges.txt": lambda folder: as_vocabulary(folder, merges=False),
    "no merges": without_merges,
    "half of the words": half_of_the_words,
    "merges of absent words": lambda folder: edited(
        folder, "tokenizer.json", lambda c: c | {"model": c["model"] | {"vocab": {"a": 0}}}
    ),
    "empty settings": written("tokenizer_config.json", "{}"),
} | {
    f"{file} {content[:7]!r}": written(file, content)
    for file in ("tokenizer.json", "tokenizer_config.json")
    for content in ("", "{", "[]", "null", "version https://git-lfs", "\ufeff{}")
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_half_a_folder_is_refused_in_one_line(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(Refusal, match=f"{folder}.* tokenizer|{folder}/tokenizer ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vocabulary", [639, 641, 49408])
def test_a_tokenizer_of_another_encoder_is_refused_with_both_sizes(whole, vocabulary):
    other = SimpleNamespace(config=text_config(vocab_size=vocabulary))
    size = len(tokenizer_of_captions())
    with pytest.raises(Refusal, match=f"is a tokenizer of {size} tokens, the text encoder knows {vocabulary}"):
        load(whole, other)


def test_the_words_of_a_vocabulary_are_tokens():
    assert knows_its_words(tokenizer_of_captions())


def test_two_tokenizers_of_other_lengths_are_refused():
    one, other = SimpleNamespace(model_max_length=77), SimpleNamespace(model_max_length=64)
    same = SimpleNamespace(components={"tokenizer": one, "tokenizer_2": one})
    require_one_length(same, "x")
    with pytest.raises(Refusal, match="tokenizers of x have other lengths .*77.*64"):
        require_one_length(SimpleNamespace(components={"tokenizer": one, "tokenizer_2": other}), "x")
