"""What the captions of a dataset are like: how long, how often cut off or equal, how near to the pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from diffpo.core.refusal import Refusal
from diffpo.diffusion.annotate.caption_texts import RawAnswer, Text
from diffpo.storage.hub import SAFE, name_failed_loads

BINS = 20
WIDTH = 40
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
AT_A_TIME = 1000


def opened_tokenizer(path: str) -> Any:
    """Raises a Refusal if there is none."""
    with name_failed_loads(path, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, **SAFE)
    # Where there are no files of a tokenizer, transformers makes an empty one.
    if not len(tokenizer):
        raise Refusal(f"{path} holds no tokenizer; name one, or null.")
    return tokenizer


def summarize_captions(
    texts: Mapping[int, Text], answers: Sequence[Mapping[int, RawAnswer]], tokenizer: Any | None
) -> dict[str, Any]:
    """What `captions.json` says of the texts.

    Args:
        texts: 2n is the chosen side of pair n, 2n + 1 the rejected one.
        answers: those of each speaker.
        tokenizer: of the model that is to be trained; None counts no tokens.

    Raises:
        Refusal: if no pair has both captions.
    """
    sides = [[texts[number]["caption"] for number in range(side, len(texts), 2)] for side in (0, 1)]
    whole = [(chosen, rejected) for chosen, rejected in zip(*sides, strict=True) if chosen and rejected]
    said = [answer for of_speaker in answers for answer in of_speaker.values()]
    found: dict[str, Any] = {
        "captions": sum(text is not None for side in sides for text in side),
        "empty": sum(answer["raw"] is not None and not answer["raw"].split() for answer in said),
        "unanswerable": sum(answer["raw"] is None for answer in said),
        "retried": sum(answer["retried"] > 0 for answer in said),
        "fallback": len(sides[0]) - len(whole),
    }
    if not whole:
        raise Refusal(
            f"None of the {len(sides[0])} pairs got both captions ({found['empty']} answers were empty, "
            f"{found['unanswerable']} could not be asked for); try a few pairs with another captioner or perturber, "
            "in another output_dir."
        )
    found["equal"] = float(np.mean([chosen == rejected for chosen, rejected in whole]))
    named = {name: list(filter(None, side)) for name, side in zip(("chosen", "rejected"), sides, strict=True)}
    found["words"] = {name: lengths([len(text.split()) for text in side]) for name, side in named.items()}
    return found | ({} if tokenizer is None else summarize_tokens(named, tokenizer))


def summarize_tokens(named: Mapping[str, list[str]], tokenizer: Any) -> dict[str, Any]:
    """Lengths in tokens with those for begin and end, and the share that the tokenizer's limit (CLIP: 77) cuts off."""
    counts = {name: count_tokens(texts, tokenizer) for name, texts in named.items()}
    limit = tokenizer.model_max_length
    return {
        "tokens": {name: lengths(of_side) for name, of_side in counts.items()},
        "limit": limit,
        "truncated": float(np.mean([count > limit for of_side in counts.values() for count in of_side])),
    }


def count_tokens(texts: list[str], tokenizer: Any) -> list[int]:
    chunks = (texts[begin : begin + AT_A_TIME] for begin in range(0, len(texts), AT_A_TIME))
    return [len(ids) for chunk in chunks for ids in tokenizer(chunk, truncation=False, verbose=False)["input_ids"]]


def lengths(counts: Sequence[int]) -> dict[str, float | int]:
    return {"mean": float(np.mean(counts)), "max": max(counts), **quantiles(counts)}


def quantiles(values: Sequence[float | int]) -> dict[str, float]:
    return {f"p{round(100 * q):02d}": float(np.quantile(values, q)) for q in QUANTILES}


def gap(scores: Mapping[int, float | None], pairs: int) -> dict[str, Any]:
    """How much nearer the chosen picture is to its caption than the rejected one to its own (arXiv:2502.06023).

    Gaps score(x_w, z_w) - score(x_l, z_l), over pairs in which both are known.

    Args:
        scores: by number; numbers of sides without a caption are absent.
    """
    both = [(scores.get(2 * n), scores.get(2 * n + 1)) for n in range(pairs)]
    gaps = [chosen - rejected for chosen, rejected in both if chosen is not None and rejected is not None]
    if not gaps:
        return {"pairs": 0}
    counts, edges = np.histogram(gaps, BINS)
    return {
        "pairs": len(gaps),
        "mean": float(np.mean(gaps)),
        "positive": float(np.mean(np.array(gaps) > 0)),
        **quantiles(gaps),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def bars(histogram: Mapping[str, Sequence[float | int]]) -> str:
    """A histogram as lines of text."""
    edges, counts = histogram["edges"], histogram["counts"]
    return "\n".join(
        f"{edges[i]:9.3f} to {edges[i + 1]:9.3f} {'#' * round(WIDTH * count / max(counts))} {count}"
        for i, count in enumerate(counts)
    )
