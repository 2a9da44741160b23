"""Ways to noisy latents: what their authors' settings cost by arithmetic."""

from dataclasses import dataclass

from diffpo.core.references import NOISE, SCORES
from diffpo.diffusion.objective.inversion import Inversion, PolicyInversion, ReferenceInversion
from diffpo.diffusion.objective.noising import ForwardNoise, Noising

FORWARD_BACKWARD = 2.63  # a forward and a backward pass, in forward passes
DPO = "DPO"


@dataclass(frozen=True)
class Way:
    """One way, at a side of a pair that is compared.

    Attributes:
        inversion: None is plain Diffusion-DPO.
        remembers: what the reference is not asked anew.
        released: forward passes that inversion takes in the authors' code, on average over its times; None if there
            is no such code.
    """

    inversion: Inversion | None = None
    remembers: tuple[str, ...] = ()
    released: float | None = None

    @property
    def noising(self) -> Noising:
        return self.inversion or ForwardNoise()

    @property
    def visits(self) -> int:
        return self.inversion.visits if self.inversion else 1

    @property
    def forwards(self) -> float:
        """Forward passes without gradient that are to be expected.

        The farthest of v different ones out of n steps is v (n + 1) / (v + 1) on average, and v sides share the way
        to it.
        """
        return (SCORES not in self.remembers) + self.walk

    @property
    def walk(self) -> float:
        if self.inversion is None or NOISE in self.remembers:
            return 0.0
        steps = (self.inversion.steps + 1) / (self.visits + 1)
        more = self.inversion.refinements
        return steps + more if self.inversion.only_last else steps * (1 + more)

    @property
    def by_arithmetic(self) -> float:
        """How many times as long as plain Diffusion-DPO."""
        return (self.forwards + FORWARD_BACKWARD) / (1 + FORWARD_BACKWARD)

    @property
    def as_released(self) -> float | None:
        """The same for the authors' code."""
        return None if self.released is None else 1 + self.released / (1 + FORWARD_BACKWARD)


INPO, SMPO = PolicyInversion(10, eta=0.1), PolicyInversion(10, refinements=1)
WAYS = {
    DPO: Way(),
    "InPO": Way(INPO, released=6.4),
    "SmPO": Way(SMPO, released=12.8),
    "SmPO, 5 steps": Way(PolicyInversion(5, refinements=1), released=7.6),
    "SmPO, last step refined": Way(PolicyInversion(10, refinements=1, only_last=True)),
    "InPO, 5 visits": Way(PolicyInversion(10, eta=0.1, visits=5)),
    "InPO, 10 visits": Way(PolicyInversion(10, eta=0.1, visits=10)),
    "InPO, noise remembered": Way(ReferenceInversion(10, eta=0.1), (NOISE,)),
    "InPO, noise and errors remembered": Way(ReferenceInversion(10, eta=0.1), (NOISE, SCORES)),
}
