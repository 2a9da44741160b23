import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from tiny import saved, scheduler, unet

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.schedules import (
    EDM,
    SCHEDULE,
    change_scheduler,
    require_as_trained,
    require_ddpm,
    require_said,
    said_of,
)
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.pipeline import load_base

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
DDPM_FAMILY = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]
OTHERS = [
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "IPNDMScheduler",
    "CMStochasticIterativeScheduler",
]


def made(kind: str, **settings):
    return getattr(diffusers, kind)(**settings)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return Path(saved(tmp_path_factory.mktemp("schedules") / "sd"))


@pytest.mark.parametrize("kind", DDPM_FAMILY)
@pytest.mark.parametrize("settings", [SD, {}], ids=["given", "its own defaults"])
def test_the_path_of_each_of_the_family_is_its_own(kind, settings):
    theirs = made(kind, **settings)
    require_ddpm(theirs)
    ours = Denoiser.from_scheduler(unet(), theirs)
    torch.testing.assert_close(ours.a.square(), theirs.alphas_cumprod.float(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_other_scheduler_is_refused_by_name(kind):
    with pytest.raises(Refusal, match=f"The base's scheduler, {kind}, has no betas: .* not computed here; choose a"):
        Denoiser.from_scheduler(unet(), made(kind))


@pytest.mark.parametrize(
    "strange",
    [
        {"kind": "EulerDiscreteScheduler", "timestep_type": "continuous"},
        {"kind": "UniPCMultistepScheduler", "use_flow_sigmas": True},
        {"kind": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
    ],
)
def test_a_scheduler_of_the_family_that_runs_on_other_times_is_refused(strange):
    kind, [(name, value)] = strange["kind"], [item for item in strange.items() if item[0] != "kind"]
    with pytest.raises(Refusal, match=f"{kind}, has {name} {value}: "):
        require_ddpm(made(kind, **SD | {name: value}))


def edited(base: Path, folder: Path, change) -> str:
    """A copy of a base with another scheduler config."""
    shutil.copytree(base, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    return str(folder)


@pytest.mark.parametrize("absent", SCHEDULE)
def test_a_config_that_leaves_the_noise_to_defaults_is_refused_until_it_is_said(base, tmp_path, absent):
    path = edited(base, tmp_path / "x", lambda config: {n: v for n, v in config.items() if n != absent})
    with pytest.raises(Refusal, match=f"scheduler's config of {path} lacks {absent}, .*set them in base.scheduler"):
        load_base(path, encodes=False)
    loaded = load_base(path, encodes=False, scheduler={absent: SD[absent]}).scheduler
    assert torch.equal(loaded.alphas_cumprod, scheduler().alphas_cumprod)


@pytest.mark.parametrize("kind", DDPM_FAMILY)
def test_so_is_one_without_any_betas_of_every_kind(base, tmp_path, kind):
    path = edited(base, tmp_path / "x", lambda _: {"_class_name": kind})
    index = tmp_path / "x" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", kind]}))
    with pytest.raises(Refusal, match="lacks beta_start, beta_end, beta_schedule, num_train_timesteps, and defaults"):
        load_base(path, encodes=False, denoises=False)


def test_betas_one_by_one_say_enough(base, tmp_path):
    betas = torch.linspace(1e-4, 2e-2, 1000).tolist()
    path = edited(base, tmp_path / "x", lambda config: {"_class_name": config["_class_name"], "trained_betas": betas})
    theirs = load_base(path, encodes=False).scheduler
    torch.testing.assert_close(Denoiser.from_scheduler(unet(), theirs).a.square(), theirs.alphas_cumprod)


def test_what_was_said_to_the_constructor_is_said():
    require_said(made("DDIMScheduler", **SD), "x")
    require_said(change_scheduler(made("DDIMScheduler"), SD), "x")


def test_what_a_single_file_says_of_itself():
    assert said_of({}, {}) == {}
    assert said_of({"v_pred": 0, "ztsnr": 0}, {}) == {
        "prediction_type": ("v_prediction", "tensor v_pred"),
        "rescale_betas_zero_snr": (True, "tensor ztsnr"),
    }
    assert said_of({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "False"}) == {
        "prediction_type": ("v_prediction", "metadata ss_v_parameterization")
    }
    assert said_of({}, {"modelspec.predict_key": "epsilon"})["prediction_type"][0] == "epsilon"
    assert said_of({"v_pred": 0}, {"modelspec.prediction_type": "epsilon"})["prediction_type"][0] == "v_prediction"


@pytest.mark.parametrize("mark", EDM)
def test_a_file_that_was_trained_by_edm_is_not_read_as_ddpm(mark):
    with pytest.raises(Refusal, match=f"x says that it was trained with EDM preconditioning .tensor {mark}"):
        require_as_trained({mark: 0}, {}, made("DDIMScheduler", **SD), {}, "x")
    require_as_trained({mark: 0}, {}, made("EDMEulerScheduler"), {}, "x")  # which is refused where noise is made


def test_a_scheduler_that_cannot_say_it_is_to_be_another_one():
    with pytest.raises(Refusal, match="rescale_betas_zero_snr True .*name a base.config whose scheduler has resc"):
        require_as_trained({"ztsnr": 0}, {}, made("PNDMScheduler", **SD), {}, "x")


def test_a_user_may_know_better():
    require_as_trained({"v_pred": 0}, {}, made("DDIMScheduler", **SD), {"prediction_type": "epsilon"}, "x")


@pytest.mark.parametrize("overrides", [{"beta_schedule": "foo"}, {"beta_start": "x"}, {"num_train_timesteps": -1}])
def test_settings_that_a_scheduler_does_not_take_are_one_line(overrides):
    with pytest.raises(Refusal, match="DDIMScheduler does not take base.scheduler .*: .*Error: ") as caught:
        change_scheduler(made("DDIMScheduler", **SD), overrides)
    assert "\n" not in str(caught.value)
