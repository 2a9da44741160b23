"""A taste that no score can represent: the majority of three readers over where the object stands, a cycle.

center > top > left, top > left > center and left > center > top: each position beats one other with probability 2/3
and loses to the third. The Nash policy is uniform over the three, a Bradley-Terry reward is right half of the time,
and how far a policy is from Nash is known exactly from its frequencies of positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.lab.rewrites.evaluation import Rewriting
from diffpo.lab.rewrites.oracle import read_rewrite
from diffpo.lab.shapes.captions import read_caption
from diffpo.rounds.roles import Judge
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base

READERS = (("center", "top", "left"), ("top", "left", "center"), ("left", "center", "top"))
POSITIONS = READERS[0]
NOT_ONE = len(POSITIONS)  # number of what is at none of these positions, or no caption: it loses to all that is


def count_votes() -> Float[Tensor, "p p"]:
    """P(row's position beats the column's): the share of readers that prefer it; the last one is none of them."""
    places = [*POSITIONS, None]
    wins = torch.full((len(places), len(places)), 0.5, dtype=torch.float64)
    for i, one in enumerate(POSITIONS):
        wins[i, NOT_ONE], wins[NOT_ONE, i] = 1.0, 0.0
        for j, other in enumerate(POSITIONS):
            if i != j:
                wins[i, j] = sum(reader.index(one) < reader.index(other) for reader in READERS) / len(READERS)
    return wins


@dataclass(frozen=True)
class CyclicJudge(Judge):
    """The three readers' votes on two rewrites. What stands at none of the three positions loses to what does."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"judge": type(self).__name__, "readers": [list(reader) for reader in READERS]}

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        return count_votes()[list(map(place_of, first)), list(map(place_of, second))]


def place_of(rewrite: str) -> int:
    """Number of the position that a rewrite states; `NOT_ONE` if it is another one, or no caption."""
    written = read_rewrite(rewrite)
    position = written.position if written is not None else None
    return POSITIONS.index(position) if position in POSITIONS else NOT_ONE


def count_places(rewrites: Sequence[str]) -> Float[Tensor, " p"]:
    """Shares of the three positions, and of what is none of them."""
    found = torch.bincount(torch.tensor([place_of(rewrite) for rewrite in rewrites]), minlength=NOT_ONE + 1)
    return found.double() / len(rewrites)


def exploitability(policy: Float[Tensor, " p"], wins: Float[Tensor, "p p"]) -> float:
    """max_y P(y beats the policy) - 1/2: what a best answer gains; 0 at Nash alone."""
    return float((wins @ policy).max() - 0.5)


def step_mirror(
    start: Float[Tensor, " p"],
    opponent: Float[Tensor, " p"],
    base: Float[Tensor, " p"],
    wins: Float[Tensor, "p p"],
    eta: float,
    weight: float,
) -> Float[Tensor, " p"]:
    """start^(1 - weight) base^weight exp(P(. beats opponent) / eta), normalised (arXiv:2407.00617).

    Args:
        eta: 1 / step.
        weight: of the base, tau / eta.
    """
    logits = (1 - weight) * start.log() + weight * base.log() + (wins @ opponent) / eta
    return logits.softmax(0)


Round = Callable[[Float[Tensor, " p"], Float[Tensor, " p"]], Float[Tensor, " p"]]


def play_one_phase(policy: Float[Tensor, " p"], step: Round, rounds: int) -> list[Float[Tensor, " p"]]:
    """Policies after each round: each against the one before. `step(start, opponent)` is an exact round."""
    found = list[Tensor]()
    for _ in range(rounds):
        policy = step(policy, policy)
        found.append(policy)
    return found


def play_extragradient(policy: Float[Tensor, " p"], step: Round, rounds: int) -> list[Float[Tensor, " p"]]:
    """Policies after each round, by twos from one start: the second answers what the first has become (EGPO)."""
    found = list[Tensor]()
    for number in range(rounds):
        if number % 2 == 0:
            ahead = step(policy, policy)
            found.append(ahead)
        else:
            policy = step(policy, found[-1])
            found.append(policy)
    return found


@dataclass(frozen=True)
class CyclicRewriting(Rewriting):
    """Rewriting in the cyclic game, by base, tuned model and what it was after each round before the last.

    `exploitability` is of a model's own frequencies of positions, over all rewrites of the prompts that name no
    position, and the only number that tells how a model plays; `center`, `top`, `left` and `elsewhere` are these. The
    other numbers are those of `Rewriting`, whose utility has another taste.

    Raises:
        Refusal: if all prompts name a position; when it measures, if a round has left a LoRA alone.
    """

    def asked(self) -> list[str]:
        named = super().asked()
        if not (free := [prompt for prompt in named if read_caption(prompt).position is None]):
            raise Refusal(f"All {len(named)} prompts name a position, which is what is played for; name others.")
        return free

    def list_models(self, pipelines: Mapping[str, Any], output_dir: Path) -> dict[str, LoadedCausalLM]:
        base, *others = super().list_models(pipelines, output_dir).items()
        before = sorted(output_dir.glob("round-*/weights"))[:-1]
        return dict([base, *((of.parent.name, load_base(CausalLM(str(of)))) for of in before), *others])

    def describe(self, written: Sequence[Sequence[str]]) -> dict[str, float]:
        shares = count_places([text for texts in written for text in texts])
        named = zip((*POSITIONS, "elsewhere"), shares.tolist(), strict=True)
        return {"exploitability": exploitability(shares, count_votes()), **dict(named)}
