"""CaPO: calibrated preference optimization, a regression on win rates."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.needs import Need, all_within_one, any_scored
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal
from diffpo.data.rows import LastMap, PairRow


@dataclass(frozen=True)
class CaPO(PairLoss):
    """(R_w - R_l - beta margin)^2 with R the calibrated score of each side (arXiv:2502.02588), so IPO by win rates.

    The paper weighs the margin by time: `DenoisingPreference.weighting` of `SigmoidSNR`. Its selection of pairs from
    the Pareto frontiers of several scorers is a matter of the data and not done here. Scores are read as they are and
    `prob` is not: they come from columns that hold win rates (`ScoreLabel`), or from `Calibrated`.

    Args:
        beta: no code was published, and we know of no printed value; 5000 asks for margins of Diffusion-DPO's size.

    Raises:
        Refusal: if a whole batch has no scores.
    """

    beta: float = 5000.0

    @property
    def needs(self) -> tuple[Need, ...]:
        calibrated = Need(
            "CaPO",
            "calibrated scores, which are win rates in [0, 1] and not all 0",
            lambda rows: any_scored(rows) and all_within_one(rows),
            "end data.rows with diffpo.diffusion.methods.Calibrated, or read columns of win rates with "
            "diffpo.data.ScoreLabel",
        )
        return (calibrated,)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        if not label.score.any():
            raise Refusal(
                "CaPO needs calibrated scores and all scores of this batch are 0; end data.rows with "
                "diffpo.diffusion.methods.Calibrated, or read columns of win rates with diffpo.data.ScoreLabel."
            )
        chosen, rejected = label.score
        return (chosen - rejected - self.beta * pair.margin) ** 2


@dataclass(frozen=True)
class Calibrated(LastMap):
    """Scores become win rates: the mean of P(this one wins) over the other samples of the prompt (arXiv:2502.02588).

    In a pair there is one other sample, so the two win rates are `prob` and its complement: sigmoid of the gap of
    scores after `ScoreLabel`, 1 and 0 for a hard human label. Put it last.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, scores=(row.prob, 1 - row.prob))
