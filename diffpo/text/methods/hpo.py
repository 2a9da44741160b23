"""HPO: offline reinforcement of any rewards of the data's own answers, beside a preference loss (arXiv:2405.17956)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.needs import Need, any_scored
from diffpo.core.objective import Requirements, Step
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow, RowMap
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.states import attach_part, before_completion, own_rate, part_of, take_at, watch_states
from diffpo.text.objective.preference import SequencePreference

HEAD = "value"


@dataclass(frozen=True)
class Rewards(RowMap):
    """Take the reward of each side from columns: the weighted sum of its components, best scaled to [0, 1].

    Args:
        columns: of each component, that of the chosen and of the rejected side, as the source orders them.
        weights: of the components.
        low: sum that becomes 0.
        high: sum that becomes 1; rewards beyond the range are not clamped.

    Raises:
        Refusal: if there is not one weight for each component, or `low < high` does not hold.
    """

    columns: Sequence[tuple[str, str]] = (("chosen_reward", "rejected_reward"),)
    weights: Sequence[float] = (1.0,)
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if not self.low < self.high:
            raise Refusal(f"Rewards needs low < high, got {self.low} and {self.high}.")
        if len(self.columns) != len(self.weights) or not self.columns:
            raise Refusal(f"Rewards needs a weight per component, got {len(self.columns)} and {len(self.weights)}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        sides = zip(*(names[::-1] if row.turned else names for names in self.columns), strict=True)
        totals = (
            sum(weight * float(row.column(name, self)) for name, weight in zip(names, self.weights, strict=True))
            for names in sides
        )
        return replace(row, scores=tuple((total - self.low) / (self.high - self.low) for total in totals))


@dataclass(frozen=True)
class HPO(SequencePreference):
    """L - gamma mean_y w(y) log p(y) / |y| + value_coef mean_y |tau - 1[R < V]| (R - V)^2, w = exp(lam (R - V)).

    Means are over both answers; R is their reward (`Rewards`), V what a head on the state of the prompt's last token
    expects. w is held constant in the first term and the state in the second, so that neither part trains the other.
    The first term is off until the head has had `delay` steps. An answer as good as expected is imitated, a worse one
    less, but none is pushed down. As in the paper but for tau (not stated there), w_max and the head's own learning
    rate. The head is not exported.

    Args:
        loss: L; the paper prefers KTO.
        gamma: weight of the advantage-weighted likelihood.
        lam: 1 / temperature of the weights; with rewards in [0, 1] they go up to e^5.
        tau: of the expectile: 1/2 makes V the mean reward, 1 the best one; 0.7 is usual (arXiv:2110.06169).
        value_coef: weight of the head's loss.
        delay: optimizer steps.
        w_max: bound of the weights, as in the code of arXiv:2110.06169.
        head_lr: learning rate of the head.
    """

    gamma: float = 0.5
    lam: float = 5.0
    tau: float = 0.7
    value_coef: float = 0.1
    delay: int = 100
    w_max: float = 100.0
    head_lr: float = 1e-4

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.tau < 1:
            raise Refusal(f"HPO needs a tau between 0 and 1, got {self.tau}; 0.5 expects the mean reward.")

    @property
    def requires(self) -> Requirements:
        rewards = Need(
            "HPO",
            "rewards, which are not all 0",
            any_scored,
            "add diffpo.text.methods.Rewards to data.rows, or another map that reads scores",
        )
        required = super().requires
        return replace(required, of_rows=(rewards, *required.of_rows))

    def attach(self, policy: Any, seed: int) -> None:
        attach_part(policy, HEAD, ValueHead(policy.config.get_text_config().hidden_size, seed))

    def trained(self, policy: Any) -> list[Any]:
        return own_rate(policy, HEAD, self.head_lr)

    def after(self, steps: int) -> "HPO":
        return self if steps >= self.delay else replace(self, gamma=0.0)

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        head, position = part_of(policy, HEAD), before_completion(batch)
        with watch_states(policy, lambda states: head(take_at(states, position).detach())) as found:
            pair = self.pair(policy, reference, batch)
        step, value = self.judged(pair, batch), found[-1]  # a reference on the same network was asked before
        gap = batch.label.score - value
        weight = (self.lam * gap.detach()).exp().clamp(max=self.w_max)
        imitated = -(weight * pair.policy / pair.length).mean(0)
        expectile = ((self.tau - (gap < 0).float()).abs() * gap.square()).mean(0)
        auxiliary = self.gamma * imitated + self.value_coef * expectile
        curves = {"value/mean": value.detach().mean(0), "value/expectile": expectile.detach()}
        curves |= {"advantage/weight": weight.mean(0)}
        return Step(step.loss + (batch.label.weight * auxiliary).mean(), step.metrics | curves)


class ValueHead(nn.Module):
    """Three layers that expect nothing at first, computed in fp32."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        inner = [nn.utils.skip_init(nn.Linear, width, width) for _ in range(2)]
        self.inner, self.last = nn.ModuleList(inner), nn.utils.skip_init(nn.Linear, width, 1)
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter)
            if name.startswith("inner") and name.endswith("weight"):
                nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=rng)

    def forward(self, states: Float[Tensor, "k b h"]) -> Float[Tensor, "k b"]:
        with torch.autocast(states.device.type, enabled=False):
            hidden = states.float()
            for layer in self.inner:
                hidden = layer(hidden).relu()
            return self.last(hidden).squeeze(-1)
