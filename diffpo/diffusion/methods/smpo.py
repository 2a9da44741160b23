"""SmPO: smoothed preferences at latents that ReNoise inverts."""

from dataclasses import dataclass, field

from diffpo.core.pair import PairLoss
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.diffusion.objective.noising import Noising
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.combined import Confidence
from diffpo.losses.logistic import Sigmoid


@dataclass(frozen=True)
class SmPO(DenoisingPreference):
    """Diffusion-DPO whose margins are scaled by gamma (2p - 1), at inverted latents (arXiv:2506.02698).

    p = sigmoid(r'_w - r'_l) of the two pictures' normalized scores is the label's probability, so end data.rows with
    `diffpo.data.ScoreLabel`; a certain label (p = 1) would weigh gamma. Equal scores give no gradient, p = 0.55
    gives plain Diffusion-DPO at gamma 10.

    From the authors' code (github.com/JaydenLyh/SmPO): gamma 10, beta 2000 (SD1.5, from an SFT model) or 5000 (SDXL),
    inversion by the policy in 5 or 10 steps, each refined once by ReNoise (arXiv:2403.14602); the paper, as we know
    it from summaries, refines the last step alone (`only_last`). What that code does and this does not: weigh a whole
    batch by its first pair, hold the range of one scorer as constants, and what `InPO` lists.
    """

    loss: PairLoss = field(default_factory=lambda: Confidence(Sigmoid(beta=2000.0), gamma=10.0))
    noising: Noising = field(default_factory=lambda: PolicyInversion(steps=5, refinements=1))
