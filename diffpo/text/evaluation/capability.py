"""What alignment costs: how much worse a model has become at ordinary text, which no preference is about."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.references import Reference
from diffpo.data.rows import PairRow
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.pairs import Example, TextReader
from diffpo.text.data.tokenizing import Tokenizing
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.loading import LoadedCausalLM


@dataclass(frozen=True, eq=False)
class CapabilityLoss:
    """Negative log-likelihood per token of ordinary texts, minus that under the base before training, in nats.

    The alignment tax of the survey (arXiv:2503.11701): 0 where policy and base are one, positive where the policy has
    forgotten. The base is the model as it was loaded, so the number means the same whatever reference a run has, or
    none. A text is a sequence of its own, whose end counts as a token. Every process reads all texts.

    Attributes:
        batches: the texts.
        before: nats per token under the base.
    """

    batches: Sequence[TokenBatch]
    before: float

    @classmethod
    def of(
        cls,
        base: LoadedCausalLM,
        texts: Sequence[str],
        longest: int,
        together: int,
        precision: AbstractContextManager,
    ) -> "CapabilityLoss":
        """Of a model that is about to be trained.

        Args:
            longest: tokens that are read of a text; `report` tells how many were cut.
            together: texts that are read at a time.
            precision: in which the network computes while it is trained.
        """
        batches = read_plain(base, texts, longest, together)
        base.network.eval()
        with precision:
            before = measure_nll(base.network, batches)
        base.network.train()
        return cls(batches, before)

    def __call__(self, model: nn.Module, reference: Reference | None = None) -> dict[str, Float[Tensor, ""]]:
        """What a validation logs of a network in evaluation mode."""
        lost = measure_nll(model, self.batches) - self.before
        return {"capability/loss": torch.tensor(lost, device=self.batches[0].ids.device)}

    def report(self) -> str:
        """What the texts are, and what was done to them."""
        seen = sum((Counter(batch.notes) for batch in self.batches), Counter[str]())
        texts, tokens = sum(len(batch.row) for batch in self.batches), count_scored(self.batches)
        return (
            f"The capability loss is measured on {texts} ordinary texts: {tokens} tokens, {self.before:.4f} nats each "
            "before training." + "".join(f" Of these texts, {n} {note}." for note, n in sorted(seen.items()))
        )


def read_plain(model: LoadedCausalLM, texts: Sequence[str], longest: int, together: int) -> list[TokenBatch]:
    """Texts without prompt as batches on the model's device; also of a model that sees, which is shown nothing."""
    reader = TextReader(Tokenizing(model.tokenizing.tokenizer, known=model.tokenizing.known), longest)
    rows = [PairRow(i, prompts=("",), candidates=(text,), scores=(0.0,)) for i, text in enumerate(texts)]
    examples = [Example(row, reader(row), 0) for row in rows]
    begins = range(0, len(examples), together)
    return [reader.collate(examples[begin : begin + together]).to(model.network.device) for begin in begins]


@torch.no_grad()
def measure_nll(model: nn.Module, batches: Sequence[TokenBatch]) -> float:
    """Mean over all tokens."""
    total = sum(token_logps(model, batch).cpu().double().sum().item() for batch in batches)
    return -total / count_scored(batches)


def count_scored(batches: Sequence[TokenBatch]) -> int:
    return sum(int(batch.scored.sum()) for batch in batches)
