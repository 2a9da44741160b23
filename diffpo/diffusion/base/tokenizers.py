"""Tokenizers of a base, checked to be those of its text encoders: of half a folder libraries make another one."""

import json
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from diffpo.core.refusal import Refusal
from diffpo.storage.hub import name_failed_loads, name_parse_errors

END = "</w>"
SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
TRIED = 50

log = logging.getLogger(__name__)


def load_tokenizer(kind: Any, path: str, name: str, encoder: Any, revision: str | None = None) -> Any:
    """One tokenizer of a pipeline; if it says no usable length, it gets the encoder's, which is told.

    Args:
        kind: class of transformers.
        path: hub id or folder of the pipeline.
        name: of the part.
        encoder: the text encoder that reads its tokens.

    Raises:
        Refusal: if it cannot be read, does not say how to pad, or is not the encoder's: of another size, or without
            the rules by which words become tokens.
    """
    with name_failed_loads(path, f"a {name}"), name_parse_errors():
        tokenizer = kind.from_pretrained(path, subfolder=name, revision=revision)
    where, wanted = f"{path}/{name}", encoder.config.vocab_size
    if len(tokenizer) != wanted:
        raise Refusal(
            f"{where} is a tokenizer of {len(tokenizer)} tokens, the text encoder knows {wanted}; copy the folder of "
            "the base whole (tokenizer.json, or vocab.json and merges.txt)."
        )
    if not read_settings(path, name, revision).get("pad_token"):
        raise Refusal(
            f"{where} does not say its pad_token, which fills up prompts, in {' or '.join(reversed(SETTINGS))}; copy "
            "the folder whole."
        )
    fit_length(tokenizer, encoder.config.max_position_embeddings, where)
    if not knows_its_words(tokenizer):
        raise Refusal(f"{where} cuts the words of its own vocabulary to pieces (no merges?); copy the folder whole.")
    return tokenizer


def fit_length(tokenizer: Any, longest: int, where: str) -> None:
    """Let a tokenizer that says no length, or one that the encoder cannot read, give the longest that it can."""
    said = tokenizer.model_max_length
    if isinstance(said, int | float) and 1 <= said <= longest:
        tokenizer.model_max_length = int(said)
        return
    log.warning(f"{where} says no model_max_length that its encoder can read ({said}); {longest} is taken.")
    tokenizer.model_max_length = longest


def knows_its_words(tokenizer: Any) -> bool:
    """Whether most of the longest words of a vocabulary are one token."""
    vocabulary = tokenizer.get_vocab()
    plain = {word: id for word, id in vocabulary.items() if word.removesuffix(END).isalpha() and word.isascii()}
    whole = {word: id for word, id in plain.items() if word.endswith(END)} or plain
    words = sorted(whole, key=lambda word: (len(word), word))[-TRIED:]
    read = [tokenizer(word.removesuffix(END), add_special_tokens=False).input_ids for word in words]
    return 2 * sum(ids == [whole[word]] for ids, word in zip(read, words, strict=True)) >= len(words)


def read_settings(path: str, name: str, revision: str | None) -> dict[str, Any]:
    """What the files beside a tokenizer say of its special tokens and lengths."""
    found = {}
    for file in SETTINGS:
        local = Path(path, name, file)
        cached = None if Path(path).exists() else try_to_load_from_cache(path, f"{name}/{file}", revision=revision)
        place = Path(cached) if isinstance(cached, str) else local
        found |= json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    return found


def require_one_length(pipeline: Any, path: str) -> None:
    """Raise a Refusal if two tokenizers give different lengths: their states are put side by side."""
    names = [name for name in ("tokenizer", "tokenizer_2") if name in pipeline.components]
    lengths = {name: pipeline.components[name].model_max_length for name in names}
    if len(set(lengths.values())) > 1:
        raise Refusal(f"The tokenizers of {path} have other lengths ({lengths}); set one model_max_length for both.")
