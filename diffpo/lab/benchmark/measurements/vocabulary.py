"""Memory and time of token log-likelihoods at a large vocabulary, against all logits at once.

python scripts/benchmark.py vocabulary --tokens 1024 --vocabulary 150000 --output runs/vocabulary.json

Each way computes log-likelihoods of one batch under a small Llama with a large output layer, and their gradients, in a
process of its own, in turns, after a pass to warm up. Memory is what the process's peak rises above what it holds
before the first pass: weights, and the gradients of both, are in neither number. On a GPU it is torch's own peak,
measured in the same way.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from diffpo.core.pair import PairLabels
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logits, token_logps


def at_once(model: nn.Module, batch: TokenBatch) -> Tensor:
    """The plain way: the logits of every token, and their log-softmax."""
    logps = token_logits(model, batch).log_softmax(-1)
    return logps.gather(-1, batch.ids[..., 1:, None]).squeeze(-1) * batch.scored[..., 1:]


WAYS = {"all at once": at_once, "in pieces": token_logps}


def language_model(vocabulary: int, width: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4}
    small: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **small, **heads, tie_word_embeddings=True))


def pairs(vocabulary: int, tokens: int) -> TokenBatch:
    """One pair of that many tokens in all, of which the first quarter of each side is prompt."""
    ids = torch.randint(vocabulary, (2, 1, tokens // 2), generator=torch.Generator().manual_seed(0))
    attended = torch.ones_like(ids, dtype=torch.bool)
    scored = attended & (torch.arange(tokens // 2) >= tokens // 8)
    return TokenBatch(ids, attended, scored, scored.long(), PairLabels.hard(1), (0,), (0,))


def peak(device: torch.device) -> float:
    """MiB at most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_pass(way: str, vocabulary: int, tokens: int, width: int) -> dict[str, float]:
    """MiB at most and seconds of the second pass; called in a process of its own, because a peak never falls."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = language_model(vocabulary, width)
    model, batch = model.to(device), pairs(vocabulary, tokens).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # so that gradients are among what is held before
    spare = [torch.ones_like(parameter) for parameter in model.parameters()]  # and the one that is added to them
    before = peak(device)
    del spare
    for _ in range(2):
        began = time.perf_counter()
        WAYS[way](model, batch).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return {"mib": peak(device) - before, "seconds": seconds}


def measure_in_child(way: str, vocabulary: int, tokens: int, width: int) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_pass, (way, vocabulary, tokens, width))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--tokens", type=int, default=1024, help="of both sides of the pair, prompts included")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2, help="in which each way has its turn; the best one counts")
    parser.add_argument("--output", type=Path, help="JSON file with the numbers")
    given = parser.parse_args()
    turns = [
        {way: measure_in_child(way, given.vocabulary, given.tokens, given.width) for way in WAYS}
        for _ in range(given.rounds)
    ]
    ways = {way: {name: min(turn[way][name] for turn in turns) for name in ("mib", "seconds")} for way in WAYS}
    plain, ours = ways.values()
    report = {"vocabulary": given.vocabulary, "tokens": given.tokens, "ways": ways}
    report |= {name: ours[name] / plain[name] for name in ("mib", "seconds")}
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(report, indent=1))
    print(f"{given.tokens} tokens, vocabulary {given.vocabulary}")
    for way, number in ways.items():
        print(f"{way:<14}{number['mib']:>10.0f} MiB{number['seconds']:>10.2f} s")
    print(f"{'ratio':<14}{report['mib']:>10.2f}    {report['seconds']:>10.2f}")


if __name__ == "__main__":
    main()
