"""DCPO: dual captions, each picture of a pair judged under its own."""

from dataclasses import dataclass, replace

import torch

from diffpo.core.draws import Draws
from diffpo.core.needs import Need, any_told_apart
from diffpo.core.objective import Requirements, Step
from diffpo.core.references import Reference
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.preference import DenoisingPreference


@dataclass(frozen=True)
class DCPO(DenoisingPreference):
    """Diffusion-DPO with a caption for each picture (arXiv:2502.06023, eq. of the DCPO loss), watched for a shortcut.

    -log sigmoid(-beta/2 [(m_w - m_l) - (r_w - r_l)]) as in `DenoisingPreference`, where m_s and r_s, of policy and
    reference alike, are conditioned on the caption z_s of their picture; the captions are the rows' prompts, which
    `diffpo.data.DualCaptions` sets. With equal captions it is Diffusion-DPO to the bit. With two, the derivation
    from Bradley and Terry no longer holds: partition functions of z_w and z_l do not cancel.

    On held-out pairs the margin is computed once more with captions exchanged and pictures kept, as
    captions_exchanged/margins and /accuracies: if captions alone explain more than half of the margin, a run warns.

    The authors' code (github.com/sahsaeedi/DCPO-T2I) overwrites the prediction type of SD2.1, a model of velocities,
    with epsilon, and drops no captions; here v-prediction is read off the scheduler, and a caption is dropped on both
    sides at once. Their beta is 500 on SD2.1, in the same convention.
    """

    @property
    def requires(self) -> Requirements:
        captions = Need(
            "DCPO",
            "a caption for each picture, and no pair has two (it would be Diffusion-DPO)",
            any_told_apart,
            "add diffpo.data.DualCaptions to data.rows, or let data.source name prompt_chosen and prompt_rejected",
        )
        required = super().requires
        return replace(required, of_rows=(*required.of_rows, captions))

    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Step:
        noised = self.noising(policy, reference, batch, draws)
        step = self.at(policy, reference, noised)
        if torch.is_grad_enabled():  # training: the check would cost half as much again
            return step
        exchanged = replace(noised.batch, cond=noised.batch.cond.exchanged())
        found = self.at(policy, reference, replace(noised, batch=exchanged)).metrics
        names = {f"captions_exchanged/{what}": found[f"rewards/{what}"] for what in ("margins", "accuracies")}
        return step._replace(metrics=step.metrics | names)
