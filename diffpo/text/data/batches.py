"""Batches of tokens that know what of them is scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from diffpo.core.pair import PairLabels
from diffpo.core.refusal import Refusal


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Candidates of b prompts, tokenised and padded on the right.

    Attributes:
        ids: tokens of prompt and completion.
        attended: tokens that are no padding.
        scored: tokens whose likelihood counts: those of the completion.
        part: number, from 1, of the part of the completion that a token belongs to (turn, step or marked span); 0
            elsewhere.
        label: what the data say.
        row: id of each row.
        epoch: of each row.
        inputs: what else the network is given, e.g. `pixel_values`; of most networks, with k * b rows.
        notes: what was done to the texts that a run reports, and how often.
    """

    ids: Int[Tensor, "k b s"]
    attended: Bool[Tensor, "k b s"]
    scored: Bool[Tensor, "k b s"]
    part: Int[Tensor, "k b s"]
    label: PairLabels
    row: tuple[int, ...]
    epoch: tuple[int, ...]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """The same batch with each tensor changed, e.g. moved to a device."""
        return replace(
            self,
            ids=change(self.ids),
            attended=change(self.attended),
            scored=change(self.scored),
            part=change(self.part),
            label=self.label.map(change),
            inputs={name: change(tensor) for name, tensor in self.inputs.items()},
        )

    def best(self) -> "TokenBatch":
        """The first candidate of each row alone."""
        label = PairLabels(self.label.prob, self.label.score[:1], self.label.weight)
        inputs = {name: tensor[0] for name, tensor in self.inputs_by_candidate().items()}
        first = {name: x[:1] for name, x in vars(self).items() if name in ("ids", "attended", "scored", "part")}
        return replace(self, label=label, inputs=inputs, **first)

    def inputs_by_candidate(self) -> dict[str, Shaped[Tensor, "k b *rest"]]:
        """`inputs` with the candidates apart.

        Raises:
            Refusal: if one has not a row per candidate, as the patches of Qwen-VL's pictures.
        """
        k, b = self.ids.shape[:2]
        if odd := [name for name, tensor in self.inputs.items() if len(tensor) != k * b]:
            raise Refusal(
                f"{odd[0]} has {len(self.inputs[odd[0]])} rows for {k * b} candidates, so some cannot be taken "
                "out; choose an objective that reads all candidates (MDPO), or a base like LLaVA."
            )
        return {name: tensor.unflatten(0, (k, b)) for name, tensor in self.inputs.items()}

    def pin_memory(self) -> "TokenBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "TokenBatch":
        return self.map(lambda x: x.to(device, non_blocking=True))
