"""Sample, judge, pair, train, and again: preference optimization that makes its own pairs."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.processes.everyone import on_main
from diffpo.rounds.contents import relocate_content
from diffpo.rounds.plans import Anchor, FromLast, RoundLearner, Start, ToBase, Training, Weights
from diffpo.rounds.roles import Judge, Pairing, Sampler
from diffpo.rounds.stages import describe_round, judge_candidates, pair_candidates, sample_candidates
from diffpo.rounds.tables import PAIRS, TRAINED, read_candidates, read_table, write_records
from diffpo.storage.digests import read_json
from diffpo.storage.ledger import as_json, replace_file, require_same, write_named
from diffpo.storage.lock import take_lock
from diffpo.train.state.checkpoint import flatten_tree, list_checkpoints

IDENTITY, SUMMARY, WEIGHTS = "identity.json", "round.json", "weights"


@dataclass(frozen=True)
class RoundPlan:
    """How many rounds, and what is made in each.

    Args:
        rounds: of sampling, judging, pairing and training.
        k: candidates of each prompt.
        prompts: that each round answers, the next ones in the order of the list, from its beginning again when it
            ends; null is all of them in every round.
        keep: rounds whose pairs are trained on, this one included; null is all.
        start: who answers, and where training starts.
        reference: what training is held to, if its objective needs a reference.

    Raises:
        Refusal: if a count is below 1.
    """

    rounds: int = 3
    k: int = 2
    prompts: int | None = None
    keep: int | None = 1
    start: Start = field(default_factory=FromLast)
    reference: Anchor = field(default_factory=ToBase)

    def __post_init__(self):
        counts = {"rounds": self.rounds, "k": self.k, "prompts": self.prompts, "keep": self.keep}
        require_at_least(1, **{f"rounds.{name}": count for name, count in counts.items()})

    def choose(self, prompts: Mapping[int, Any], number: int) -> dict[int, Any]:
        """Prompts of a round, by id."""
        if self.prompts is None:
            return dict(prompts)
        ids = list(prompts)
        places = range(number * self.prompts, (number + 1) * self.prompts)
        return {n: prompts[n] for n in (ids[place % len(ids)] for place in places)}


def run_rounds(
    learner: RoundLearner,
    prompts: Mapping[int, Any],
    sampler: Sampler,
    judge: Judge,
    pairing: Pairing,
    rounds: RoundPlan,
    output_dir: Path | str,
    seed: int = 0,
) -> Path:
    """Run all rounds, each in its folder `round-0000`; returns the folder of the last one's weights.

    Killed at any moment, in any stage, the same call goes on there and ends with the same bits on a CPU. More rounds
    may be asked for later. Checkpoints of a round are removed when it is done.

    Args:
        prompts: by id; a draw about a prompt depends on its id.

    Raises:
        Refusal: if `output_dir` holds rounds of something else: it says what differs.
        Refusal: if another program is at work there.
        Refusal: if the pairing takes other numbers of candidates, or a round makes nearly no pair.
    """
    output_dir = Path(output_dir)
    pairing.require_suits(rounds.k)
    if not prompts:
        raise Refusal("There is no prompt to answer; name a file of prompts.")
    about = {"seed": seed, "k": rounds.k, "prompts": rounds.prompts, "keep": rounds.keep, "start": repr(rounds.start)}
    about |= {"reference": repr(rounds.reference), "pairing": repr(pairing), "sampler": sampler.identity}
    identity = json.loads(json.dumps(flatten_tree(about | {"judge": judge.identity, "learner": learner.identity})))
    lock = on_main(lambda: take_lock(output_dir, "rounds", holds_rounds))
    done = list[Path]()
    for number in range(rounds.rounds):
        folder = output_dir / f"round-{number:04d}"
        on_main(lambda folder=folder, number=number: begin_round(folder, {"round": number, **identity}))
        weights = folder / WEIGHTS
        if not (folder / SUMMARY).exists():
            answering = rounds.start.answering(done, folder, learner.base)
            chosen, said = rounds.choose(prompts, number), str(answering or learner.base)
            sample_candidates(
                folder, chosen, sampler, lambda of=answering: learner.load(of), rounds.k, seed, number, name_of(said)
            )
            judge_candidates(folder, judge, pairing)
            pair_candidates(folder, pairing)
            on_main(lambda folder=folder, number=number: gather_pairs(output_dir, folder, number, rounds.keep))
            start = rounds.start.training(done, folder, learner.base)
            learner.train(Training(start, folder / TRAINED, rounds.reference, weights, seed + number))
            on_main(lambda folder=folder, of=answering: end_round(folder, learner, of, sampler))
        done.append(weights)
    del lock  # until now, other programs were kept from the folder
    return done[-1]


def holds_rounds(names: set[str]) -> bool:
    return any(name.startswith("round-") for name in names)


def name_of(weights: str) -> str:
    """Weights of a round by the names of their folders, wherever the rounds lie; others by where they are."""
    parts = Path(weights).parts
    return "/".join(parts[-2:]) if any(part.startswith("round-") for part in parts[-2:-1]) else weights


def begin_round(folder: Path, identity: Mapping[str, Any]) -> None:
    """Say what a round is of, or raise a Refusal that names what differs from what was begun there."""
    if (folder / IDENTITY).exists():
        require_same(read_json(folder / IDENTITY), identity, folder)
    else:
        replace_file(folder / IDENTITY, as_json(identity))


def gather_pairs(output_dir: Path, folder: Path, number: int, keep: int | None) -> None:
    """Write `trained.parquet`: the pairs of this round and of those before that are kept; paths of pictures are
    relative to the folder of all rounds."""
    kept = range(0 if keep is None else max(0, number + 1 - keep), number + 1)
    folders = [output_dir / f"round-{n:04d}" for n in kept]
    records = [
        {name: relocate_content(value, made.name) for name, value in record.items()}
        for made in folders
        for record in read_table(made / PAIRS)[0]
    ]
    if not (folder / TRAINED).exists():
        write_records(folder / TRAINED, records, {"rounds": list(kept)})


def end_round(folder: Path, learner: RoundLearner, answering: Weights, sampler: Sampler) -> None:
    """Write `round.json`, which tells that the round is done; its checkpoints have served."""
    summary = describe_round(folder) | learner.measure(answering, read_candidates(folder)[0], sampler)
    write_named(folder / SUMMARY, as_json(summary))
    for checkpoint in list_checkpoints(folder / WEIGHTS):
        shutil.rmtree(checkpoint, ignore_errors=True)
    print(f"{folder.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in summary.items()))
