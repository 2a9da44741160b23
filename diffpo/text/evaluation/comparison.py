"""Models that write side by side: the same prompts and draws, any scorer and judge, one report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.refusal import Refusal
from diffpo.evaluation.report import ModelPair, TextReport
from diffpo.evaluation.scorer import TextScorer
from diffpo.evaluation.win_rates import (
    bootstrap_interval,
    format_report,
    list_versions,
    summarize_pictures,
    win_rate,
)
from diffpo.rounds.asked import Asked
from diffpo.rounds.roles import Judge, require_probabilities
from diffpo.storage.files import require_name
from diffpo.storage.ledger import write_named
from diffpo.storage.shared_work import shared_out
from diffpo.text.evaluation.compared import Answers, digest_of_texts
from diffpo.text.evaluation.scoring import rate_answers

LISTING = "prompts.jsonl"
Table = Float[np.ndarray, "prompts answers"]


@dataclass(frozen=True, eq=False)
class TextJudges:
    """Who rates answers and who compares them, by the names that the report gives them.

    Args:
        scorers: win where their number is greater.
        judges: of two answers; their P(first wins) is averaged.
        batch_size: questions at a time.

    Raises:
        Refusal: if there is nobody, or two have one name.
    """

    scorers: Sequence[TextScorer] = ()
    judges: Mapping[str, Judge] = field(default_factory=dict)
    batch_size: int = 32

    def __post_init__(self):
        taken = list[str]()
        for name in self.names:
            require_name(name, "a scorer or judge", taken)
            taken.append(name)
        if not taken:
            raise Refusal("Nobody judges: name scorers, judges, or both.")

    @property
    def names(self) -> list[str]:
        return [*(scorer.name for scorer in self.scorers), *self.judges]

    @property
    def identities(self) -> dict[str, dict[str, Any]]:
        return {scorer.name: scorer.identity for scorer in self.scorers} | {
            name: judge.identity for name, judge in self.judges.items()
        }


def rate_model(judges: TextJudges, prompts: Sequence[str], answers: Answers, folder: Path) -> dict[str, Table]:
    """Each scorer's numbers for a model's answers, NaN of what could not be rated; the folder keeps what is done."""
    each, texts = len(answers[0]), [one.content for of in answers for one in of]
    found = dict[str, Table]()
    for scorer in judges.scorers:

        def rate(some: Sequence[int], scorer: TextScorer = scorer) -> Iterator[Mapping[int, float | None]]:
            return rate_answers(scorer, [(prompts[n // each], texts[n]) for n in some], some)

        place, identity = folder / "scores" / scorer.name, {**scorer.identity, "answers": digest_of_texts(texts)}
        scores = shared_out(range(len(texts)), rate, judges.batch_size, place, identity, scorer.name, "answer")
        numbers = [scores[n] for n in range(len(texts))]
        if all(number is None for number in numbers):
            raise Refusal(
                f"{scorer.name} could rate none of the {len(texts)} answers in {folder}; look at what it says."
            )
        found[scorer.name] = np.array(numbers, dtype=float).reshape(len(prompts), each)
    return found


def ask_about_pair(
    judge: Judge, prompts: Sequence[str], ours: Answers, theirs: Answers, folder: Path, batch: int
) -> Table:
    """P(ours wins) of answer j of each prompt against answer j of the other model; equal ones tie, unasked."""
    each = len(ours[0])
    sides = [[one.content for of in answers for one in of] for answers in (ours, theirs)]

    def ask(some: Sequence[int]) -> Iterator[Mapping[int, float]]:
        alike = [n for n in some if sides[0][n] == sides[1][n]]
        if alike:
            yield dict.fromkeys(alike, 0.5)
        if not (asked := [n for n in some if n not in alike]):
            return
        try:
            said = judge([prompts[n // each] for n in asked], *([side[n] for n in asked] for side in sides))
        except Interrupted as error:
            if isinstance(judge, Asked):  # of others, its numbers are those of the questions that they made of ours
                yield {asked[i]: prob for i, prob in error.said.items()}
            raise
        yield dict(zip(asked, require_probabilities(said, judge).tolist(), strict=True))

    identity = {**judge.identity, "answers": [digest_of_texts(side) for side in sides]}
    probs = shared_out(range(len(sides[0])), ask, batch, folder, identity, folder.name, "question")
    return np.array([probs[n] for n in range(len(sides[0]))], dtype=float).reshape(len(prompts), each)


def compare_texts(
    answers: Mapping[str, Answers], prompts: Sequence[str], judges: TextJudges, output_dir: Path
) -> tuple[dict[str, dict[str, Table]], list[ModelPair]]:
    """Of each model and name of a judge its numbers, and every pair of models once, the later one first.

    A judge's number of an answer is its mean P(wins) over the other models' answers. Beside each win rate stand both
    mean lengths and how often the first model's answer is the longer one, a tie counting half.

    Raises:
        Refusal: if a scorer can rate no answer of a model, or a judge has only one model.
        Interrupted: if an endpoint dies; what it had said is kept.
    """
    if judges.judges and len(answers) < 2:
        raise Refusal(f"A judge compares models, and {[*answers][0]} is the only one; name another, or only scorers.")
    numbers = {
        name: rate_model(judges, prompts, of, output_dir / name) | {"length": measure_lengths(of)}
        for name, of in answers.items()
    }
    models = list(combinations(answers, 2))
    won: dict[str, dict[tuple[str, str], Table]] = {}
    for metric, judge in judges.judges.items():
        for b, a in models:
            place = output_dir / "verdicts" / metric / f"{a} over {b}"
            probs = ask_about_pair(judge, prompts, answers[a], answers[b], place, judges.batch_size)
            won.setdefault(metric, {}).update({(a, b): probs, (b, a): 1 - probs})
        for name in answers:
            against = [won[metric][name, other] for other in answers if other != name]
            numbers[name][metric] = np.mean(against, axis=0)
    pairs = list[ModelPair]()
    for metric in judges.names:
        for b, a in models:
            if metric in won:
                by_prompt = won[metric][a, b].mean(1)
                rate, (low, high) = float(by_prompt.mean()), bootstrap_interval(by_prompt)
            else:
                found = win_rate(numbers[a][metric], numbers[b][metric])
                rate, low, high = found.rate, found.low, found.high
            lengths = [numbers[name]["length"] for name in (a, b)]
            pairs.append(
                ModelPair(
                    a=a,
                    b=b,
                    metric=metric,
                    win_rate=rate,
                    win_rate_low=low,
                    win_rate_high=high,
                    lengths=[float(x.mean()) for x in lengths],
                    longer=float(np.mean((lengths[0] > lengths[1]) + (lengths[0] == lengths[1]) / 2)),
                )
            )
    return numbers, pairs


def measure_lengths(answers: Answers) -> Table:
    """Characters of each answer, a unit that models with different tokens share."""
    return np.array([[float(len(one.content)) for one in of] for of in answers])


def summarize_texts(
    answers: Mapping[str, Answers],
    sources: Mapping[str, str],
    numbers: Mapping[str, Mapping[str, Table]],
    pairs: list[ModelPair],
    judges: TextJudges,
    temperature: float,
) -> TextReport:
    """The report of a comparison, fractions and not percent."""
    models = {}
    for name, of in answers.items():
        about = [one.about for each in of for one in each]
        known = [one["ended"] for one in about if "ended" in one]
        models[name] = {
            "source": sources[name],
            "folder": name,
            "listing": f"{name}/{LISTING}",
            **summarize_pictures(numbers[name], judges.names),
            "diversity": measure_word_diversity(of),
            "answers_cut": known.count(False),
            "prompts_cut": sum(each[0].about.get("prompt_cut", False) for each in of),
            "empty": sum(not one.content.strip() for each in of for one in each),
        }
    first = next(iter(answers.values()))
    return {
        "n_prompts": len(first),
        "answers": len(first[0]),
        "temperature": temperature,
        "versions": list_versions(),
        "scorers": judges.identities,
        "models": models,
        "pairs": pairs,
        "warnings": list_text_warnings(models, len(first) * len(first[0])),
    }


def list_text_warnings(models: Mapping[str, Mapping[str, Any]], answers: int) -> list[str]:
    """What was cut, or said nothing."""
    said = {
        "answers_cut": "answers of {} had not ended after max_tokens and were cut",
        "prompts_cut": "prompts were longer than the context of {} and lost their beginning",
        "empty": "answers of {} are empty",
    }
    return [
        f"{entry[key]} of {answers} {text.format(name)}."
        if key != "prompts_cut"
        else f"{entry[key]} {text.format(name)}."
        for name, entry in models.items()
        for key, text in said.items()
        if entry[key]
    ]


def measure_word_diversity(answers: Answers) -> float | None:
    """Mean Jaccard distance of the words of two answers to one prompt, in [0, 1]; None with one answer to each."""
    distances = list[float]()
    for each in answers:
        words = [{*one.content.split()} for one in each]
        distances += [1 - len(one & two) / max(len(one | two), 1) for one, two in combinations(words, 2)]
    return float(np.mean(distances)) if distances else None


def write_answers(answers: Answers, prompts: Sequence[str], numbers: Mapping[str, Table], folder: Path) -> None:
    """`prompts.jsonl`: one line per answer, prompt by prompt."""
    lines = []
    for i, (prompt, each) in enumerate(zip(prompts, answers, strict=True)):
        for j, one in enumerate(each):
            scores = {name: None if np.isnan(x[i, j]) else float(x[i, j]) for name, x in numbers.items()}
            lines.append(json.dumps({"prompt": prompt, "answer": one.content, "scores": scores, **one.about}))
    write_named(folder / LISTING, ("\n".join(lines) + "\n").encode())


def format_comparison(report: TextReport) -> str:
    """For the terminal: per scorer or judge mean, length and win rate over the first model; then the other pairs."""
    models, first = report["models"], next(iter(report["models"]))
    width = max(14, *(len(name) + 2 for name in (*models, *report["scorers"])))
    lines = list[str]()
    for metric in report["scorers"]:
        lines.append(f"{metric:<{width}}{'mean':>10}{'length':>10}{f'win rate over {first}':>28}{'longer':>10}")
        over = {pair["a"]: pair for pair in report["pairs"] if pair["metric"] == metric and pair["b"] == first}
        for name, entry in models.items():
            pair = over.get(name)
            rate = format_report(pair) if pair else "-"
            longer = format_longer(pair) if pair else "-"
            mean = entry["scores"][metric]["mean"]
            lines.append(f"{name:<{width}}{mean:>10.4f}{entry['length']:>10.1f}{rate:>28}{longer:>10}")
        others = [pair for pair in report["pairs"] if pair["metric"] == metric and pair["b"] != first]
        lines += [f"{p['a']} over {p['b']}: {format_report(p)}, longer in {format_longer(p)}" for p in others]
        lines.append("")
    return "\n".join(lines).strip("\n")


def format_longer(pair: ModelPair) -> str:
    assert "longer" in pair
    return f"{pair['longer']:.1%}"
