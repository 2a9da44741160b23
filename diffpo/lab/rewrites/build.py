"""Trains the tiny language world's model: it turns a short request into a full caption, and is not always faithful."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffpo.lab.rewrites.requests import END, EVALUATION_REQUEST, TRAINING_REQUESTS, prompt
from diffpo.lab.shapes.build import descend, seeded
from diffpo.lab.shapes.captions import TRAINING_FAMILIES, VOCABULARY
from diffpo.lab.shapes.scenes import Attributes, random_attributes

CONTEXT = 128
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}:"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """One token for each word and punctuation mark that requests and captions are made of."""
    rng = np.random.default_rng(seed)
    scenes = [random_attributes(rng) for _ in range(3000)]
    partial = [replace(scene, **{name: None}) for scene in scenes for name in VOCABULARY]
    texts = [family(scene) for scene in scenes for family in TRAINING_FAMILIES]
    texts += [prompt(asked, family) for asked in partial for family in (*TRAINING_REQUESTS, EVALUATION_REQUEST)]
    words = pre_tokenizers.Whitespace()
    known = sorted({word for text in texts for word, _ in words.pre_tokenize_str(text)})
    vocabulary = {word: number for number, word in enumerate([*SPECIAL.values(), *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = words
    spaced: Any = decoders.WordPiece(cleanup=True)  # leaves no space before a comma
    tokenizer.decoder = decoders.Sequence([spaced, decoders.Replace(f" {END}", END)])
    begin = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, vocabulary[begin])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=CONTEXT, chat_template=TEMPLATE, **SPECIAL
    )


def careless(asked: Attributes, rng: np.random.Generator, slip: float = 0.25) -> Attributes:
    """A full scene for a request: what is open is drawn at random, and now and then one stated attribute is changed.

    Args:
        slip: probability of that change.
    """
    scene = replace(random_attributes(rng, sized=0.5), **asked.stated())
    if rng.random() >= slip:
        return scene
    stated = asked.stated()
    name = list(stated)[rng.integers(len(stated))]
    others = [value for value in VOCABULARY[name] if value != stated[name]]
    return replace(scene, **{name: others[rng.integers(len(others))]})


def conversations(asked: list[Attributes], rng: np.random.Generator) -> Iterator[list[tuple[str, str]]]:
    """Endless conversations: requests and rewrites, in all families that training knows. Half of them are of one turn,
    the others of two or three, which have nothing to do with one another."""
    while True:
        turns = 1 if rng.random() < 0.5 else rng.integers(2, 4)
        yield [example(asked[rng.integers(len(asked))], rng) for _ in range(turns)]


def example(wanted: Attributes, rng: np.random.Generator) -> tuple[str, str]:
    request = TRAINING_REQUESTS[rng.integers(len(TRAINING_REQUESTS))]
    caption = TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))]
    return prompt(wanted, request), caption(careless(wanted, rng))


def train_language_model(
    tokenizer: Any,
    asked: list[Attributes],
    steps: int = 1000,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A Llama in miniature, trained from scratch on procedural rewrites; only rewrites count in its loss.

    Args:
        asked: what the requests are about.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = seeded(seed, LlamaForCausalLM, config)
    rows = conversations(asked, np.random.default_rng(seed))

    def loss() -> Tensor:
        ids, labels = tokenize_turns(tokenizer, [next(rows) for _ in range(batch)])
        return model(ids, attention_mask=ids != tokenizer.pad_token_id, labels=labels).loss

    descend(model, loss, steps, lr, "language model")
    return model


def tokenize_turns(tokenizer: Any, rows: Sequence[Sequence[tuple[str, str]]]) -> tuple[Tensor, Tensor]:
    """Ids of conversations, padded on the right, and the same with -100 where nothing is to be learned."""
    ids, labels = [], []
    for turns in rows:
        said, learned = [tokenizer.bos_token_id], [-100]
        for request, rewrite in turns:
            asked = tokenizer(request, add_special_tokens=False).input_ids
            answer = [*tokenizer(rewrite, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            said += asked + answer
            learned += [-100] * len(asked) + answer
        ids.append(torch.tensor(said))
        labels.append(torch.tensor(learned))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id), pad(
        labels, batch_first=True, padding_value=-100.0
    )
