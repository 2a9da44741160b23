"""Conversations of the tiny language world: several requests in a row, each of which the model rewrites."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset

from diffpo.lab.rewrites.oracle import read_rewrite, utility
from diffpo.lab.rewrites.preferences import TEMPERATURE, TIE
from diffpo.lab.rewrites.requests import END, TRAINING_REQUESTS
from diffpo.lab.rewrites.writing import Writing, write
from diffpo.lab.shapes.scenes import Attributes


def sample_conversations(
    model: Any, tokenizer: Any, asked: Sequence[Attributes], pairs: int = 1500, turns: int = 3, seed: int = 0
) -> Dataset:
    """Pairs of conversations of the same requests, with the columns prompt, chosen and rejected (lists of messages).

    The model answers each request twice, knowing what it has said so far on that side. Each side is rated once, by the
    mean utility of its answers plus Gumbel noise, and ratings that are close tie, as in `sample_pairs`.

    Args:
        asked: what the requests are about.
        pairs: conversations that are held twice; where both sides say the same, there is no pair.
        turns: requests in each, at most; half of the conversations have one less.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers((len(asked), len(TRAINING_REQUESTS)), size=(pairs, turns, 2))
    wanted = [[asked[i] for i, _ in each[: turns - n % 2]] for n, each in enumerate(picks)]
    requests = [[TRAINING_REQUESTS[j](asked[i]) for i, j in each[: turns - n % 2]] for n, each in enumerate(picks)]
    sides = [held(model, tokenizer, requests, Writing(seed=seed + 1000 * side)) for side in range(2)]
    held_twice = zip(requests, wanted, *sides, strict=True)
    rows = [rated(said, about, one, other, rng) for said, about, one, other in held_twice]
    return Dataset.from_list([row for row in rows if row["chosen"] != row["rejected"]])


def answered(
    model: Any, tokenizer: Any, asked: Sequence[str], writing: Writing, turns: int = 1, title: str | None = None
) -> list[list[str]]:
    """Rewrites of each prompt, which are asked in conversations of so many in a row, or fewer at the end.

    Each rewrite of a prompt belongs to a conversation of its own. One turn is `write`.
    """
    conversations = [asked[begin : begin + turns] for begin in range(0, len(asked), turns)]
    requests = [[text.removesuffix(END) for text in each] for each in conversations for _ in range(writing.rewrites)]
    answers = held(model, tokenizer, requests, writing, title)
    each = writing.rewrites
    return [[answers[i // turns * each + j][i % turns] for j in range(each)] for i in range(len(asked))]


def held(
    model: Any, tokenizer: Any, requests: Sequence[Sequence[str]], writing: Writing, title: str | None = None
) -> list[list[str]]:
    """The model's answers, turn by turn, written as its chat template writes them."""
    answers: list[list[str]] = [[] for _ in requests]
    for turn in range(max(map(len, requests))):
        open_ones = [n for n, each in enumerate(requests) if turn < len(each)]
        texts = []
        for n in open_ones:
            said = zip(requests[n], answers[n], strict=False)
            before = "".join(f"{request}{END} {answer}{tokenizer.eos_token}" for request, answer in said)
            texts.append(f"{before}{requests[n][turn]}{END}")
        written = write(model, tokenizer, texts, replace(writing, rewrites=1, seed=writing.seed + turn), title)
        for n, (answer,) in zip(open_ones, written, strict=True):
            answers[n].append(answer)
    return answers


def rated(
    requests: list[str], wanted: list[Attributes], first: list[str], second: list[str], rng: np.random.Generator
) -> dict[str, Any]:
    """One row: the side with the higher rating is chosen."""
    ratings = [
        np.mean([utility(scene, read_rewrite(text)) for scene, text in zip(wanted, side, strict=True)])
        + TEMPERATURE * rng.gumbel()
        for side in (first, second)
    ]
    (high, chosen), (low, rejected) = sorted(zip(ratings, (first, second), strict=True), reverse=True)
    return {
        "prompt": [{"role": "user", "content": requests[0]}],
        "chosen": messages(requests, chosen),
        "rejected": messages(requests, rejected),
        "prob": 1.0 if high - low > TIE * TEMPERATURE else 0.5,
    }


def messages(requests: list[str], answers: list[str]) -> list[dict[str, str]]:
    """A conversation without its first request."""
    both = zip(requests, answers, strict=True)
    said = [turn for request, answer in both for turn in (("user", request), ("assistant", answer))]
    return [{"role": role, "content": content} for role, content in said[1:]]
