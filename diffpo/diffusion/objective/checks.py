"""What can be found out about a base before hours are spent on it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.refusal import Refusal
from diffpo.data.rows import RowMap
from diffpo.diffusion.base.prediction import Epsilon, Flow, Prediction, Velocity
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import Noising
from diffpo.diffusion.objective.space import OutputSpace
from diffpo.train.adapters import Adapter

TIMES = (0.4, 0.6, 0.8)
SILENT = 1e-4  # signal coefficient below which a picture is gone: a signal-to-noise ratio of 1e-8


def require_users(adapter: Adapter | None, rows: Sequence[RowMap]) -> None:
    """Raise a Refusal if a base that hears users is not told of any, or one that hears none is told."""
    hears, told = adapter is not None and adapter.hears_users, any(row_map.tells_users for row_map in rows)
    if hears and not told:
        raise Refusal(
            f"{type(adapter).__name__} learns from pairs of which it is told who judged them, and is told of nobody; "
            "add diffpo.diffusion.ForUser to data.rows."
        )
    if told and not hears:
        raise Refusal(
            "ForUser tells who judged a pair, and this base hears no users; set base.adapter to "
            "diffpo.diffusion.UserBranch, or take the map out of data.rows."
        )


@torch.no_grad()
def require_prediction(denoiser: Denoiser, batch: ImageBatch, draws: Draws) -> None:
    """Weights do not say what they predict, errors do: compare both readings on a few noisy latents.

    The other reading must not only fit better, but twice as well as a network that predicts nothing, since zeros are a
    fair guess of v at high noise. Runs in mixed precision if the prompts are stored in half precision.

    Raises:
        Refusal: if the scheduler says epsilon and the network predicts v, or the other way round.
    """
    straight = torch.allclose(denoiser.a + denoiser.s, torch.ones_like(denoiser.a))
    other: dict[str, Prediction] = {"flow_prediction": Flow()} if straight else {"v_prediction": Velocity()}
    readings: dict[str, Prediction] = {"epsilon": Epsilon()} | other
    errors = {name: 0.0 for name in readings}
    blank = {name: 0.0 for name in readings}
    stored = batch.cond.states["prompt"].dtype
    eps = draws.normal("check", *batch.latents.shape[2:]).expand_as(batch.latents)
    for share in TIMES:
        t = torch.full((batch.latents.shape[1],), int(share * len(denoiser.a)), device=eps.device)
        x_t, a, s = denoiser.noised(batch.latents, eps, t), denoiser.signal(t), denoiser.noise(t)
        with torch.autocast(eps.device.type, stored, enabled=stored != torch.float32):
            out = replace(denoiser, prediction=Epsilon()).eps(x_t, t, batch.cond)
        for name, reading in readings.items():
            errors[name] += (reading.eps(out, x_t, a, s) - eps).square().mean().item() / len(TIMES)
            blank[name] += (reading.eps(torch.zeros_like(out), x_t, a, s) - eps).square().mean().item() / len(TIMES)
    said = next((name for name, reading in readings.items() if reading == denoiser.prediction), None)
    for name, error in errors.items():
        if said is not None and name != said and error < 0.5 * min(errors[said], blank[name]):
            raise Refusal(
                f"The base's scheduler says prediction_type {said!r}, but the network fits {name!r} better (error "
                f"{error:.3f} against {errors[said]:.3f}); set "
                f"--base.scheduler.prediction_type {name}, or correct it in scheduler/scheduler_config.json."
            )


def silent_times(objective: Objective, denoiser: Denoiser) -> str:
    """A sentence about times that a run draws though nothing of the pictures is left there; empty if there are none.

    At zero terminal SNR (arXiv:2305.08891) both sides of a pair are the same noise at the last time, and v-prediction
    reads its noise off the latents alone: no gradient comes from there.
    """
    for noising in list_noisings(objective):
        times = noising.met(len(denoiser.a))
        silent = times[denoiser.a.cpu()[times] < SILENT].unique().tolist()
        if silent:
            return (
                f"Of {len(times)} times that pairs may be compared at, {len(silent)} (t = {silent[-1]}, say) leave "
                f"nothing of a picture (signal {denoiser.a[silent[-1]].item():.1g}): pairs drawn there teach nothing. "
                "Leave them out in objective.noising.times, e.g. by "
                f"diffpo.diffusion.Uniform with high {silent[0]}."
            )
    return ""


def list_noisings(part: object) -> Iterator[Noising]:
    """All in an objective, however deep, by whose times errors of noise are compared."""
    if isinstance(vars(part).get("space"), OutputSpace):
        return
    for value in vars(part).values():
        if isinstance(value, Noising):
            yield value
        elif isinstance(value, Objective):
            yield from list_noisings(value)
