"""DDIM-InPO: preference optimization at inverted latents."""

from dataclasses import dataclass, field

from diffpo.core.pair import PairLoss
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.diffusion.objective.noising import Noising
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid


@dataclass(frozen=True)
class InPO(DenoisingPreference):
    """Diffusion-DPO at latents found by DDIM inversion, with the noise that they imply (arXiv:2503.18454).

    -log sigmoid(-beta/2 [(m_w - m_l) - (r_w - r_l)]) as in `DenoisingPreference`, but m and r are errors on
    tau = (x_t - a x_0) / s, which differs between the two sides; the factor that the paper's one-step view of x_0
    gives them is absorbed in beta, as in the authors' code (github.com/JaydenLyh/InPO). From there are also 10 steps
    by the policy, eta 0.1 and beta 2000 (SD1.5, from an SFT model) or 5000 (SDXL).

    What that code does and this does not: invert to one time and take the loss at another, call the network at
    negative times, work with one pair per device only.
    """

    loss: PairLoss = field(default_factory=lambda: Sigmoid(beta=2000.0))
    noising: Noising = field(default_factory=lambda: PolicyInversion(steps=10, eta=0.1))
