"""What noise a network was trained on: said by the scheduler of a base, and by marks in single files."""

from collections.abc import Mapping
from typing import Any

from diffpo.core.refusal import Refusal
from diffpo.storage.hub import name_parse_errors

SCHEDULE = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
USUALLY = {"use_flow_sigmas": False, "timestep_type": "discrete"}
USUAL = "beta_start 0.00085, beta_end 0.012, beta_schedule scaled_linear, num_train_timesteps 1000"

# Empty tensors and metadata by which trainers and interfaces say how a file was trained (ComfyUI, A1111, sd-scripts).
TENSORS = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}
EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
MARKS = {*TENSORS, *EDM}
PREDICTIONS = ("modelspec.prediction_type", "modelspec.predict_key")
METADATA = {
    "ss_v_parameterization": ("prediction_type", "v_prediction"),
    "ss_zero_terminal_snr": ("rescale_betas_zero_snr", True),
}


def change_scheduler(scheduler: Any, overrides: dict[str, Any]) -> Any:
    """The same scheduler with other settings, which must be settings of it."""
    if unknown := sorted(overrides.keys() - scheduler.config.keys()):
        have = ", ".join(sorted(name for name in scheduler.config if not name.startswith("_")))
        raise Refusal(f"base.scheduler names {', '.join(unknown)}; {type(scheduler).__name__} has {have}.")
    try:
        with name_parse_errors():
            return type(scheduler).from_config(scheduler.config, **overrides)
    # Diffusers checks no type; what it computes with them then fails in one of many ways.
    except ValueError as error:
        raise Refusal(f"{type(scheduler).__name__} does not take base.scheduler {overrides}: {error}.") from error


def require_said(scheduler: Any, path: str) -> None:
    """Raise a Refusal if a scheduler's config leaves to defaults which noise it is for; path is that of the base."""
    if scheduler.config.get("trained_betas") is not None:
        return
    if absent := [name for name in SCHEDULE if name in scheduler.config.get("_use_default_values", ())]:
        raise Refusal(
            f"The scheduler's config of {path} lacks {', '.join(absent)}, and defaults differ from base to base; set "
            f"them in base.scheduler (Stable Diffusion has {USUAL})."
        )


def require_ddpm(scheduler: Any) -> None:
    """Raise a Refusal if noise is not added as x_t = a(t) x_0 + s(t) eps at whole times, with a and s from betas."""
    kind, config = type(scheduler).__name__, scheduler.config
    strange = [f"{name} {config[name]}" for name, usual in USUALLY.items() if config.get(name, usual) != usual]
    if not set(SCHEDULE) <= config.keys():
        strange = ["no betas"]
    if strange:
        raise Refusal(
            f"The base's scheduler, {kind}, has {', '.join(strange)}: it is for EDM preconditioning or flow "
            "matching, which are not computed here; choose a base that was trained on the betas of the DDPM family."
        )


def require_flow(scheduler: Any) -> None:
    """Raise a Refusal if noise is not added on the straight path of rectified flow."""
    kind, config = type(scheduler).__name__, scheduler.config
    straight = config.get("use_flow_sigmas", False) or config.get("prediction_type") == "flow_prediction"
    if not (straight or kind.startswith("FlowMatch")):
        raise Refusal(
            f"The base's scheduler, {kind}, is for no rectified flow, which this family was trained on; choose a base "
            "with a FlowMatchEulerDiscreteScheduler, or one whose config says use_flow_sigmas true."
        )


def said_of(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Settings of a scheduler that a single file says, and where; what its tensors say counts more."""
    said: dict[str, tuple[Any, str]] = {}
    for mark in PREDICTIONS:
        if mark in metadata:
            kind = {"v": "v_prediction"}.get(metadata[mark], metadata[mark])
            said["prediction_type"] = kind, f"metadata {mark}"
    for mark, (name, value) in METADATA.items():
        if metadata.get(mark) == "True":
            said[name] = value, f"metadata {mark}"
    for mark, (name, value) in TENSORS.items():
        if mark in tensors:
            said[name] = value, f"tensor {mark}"
    return said


def require_as_trained(
    tensors: Mapping[str, Any], metadata: Mapping[str, str], scheduler: Any, chosen: Mapping[str, Any], path: str
) -> None:
    """Raise a Refusal if a single file says that it was trained on other noise than a scheduler is for.

    Args:
        tensors: by name, of the file.
        chosen: settings of the scheduler that the user named, who may know better.
    """
    kind, betas = type(scheduler).__name__, set(SCHEDULE) <= scheduler.config.keys()
    if betas and (marks := [mark for mark in EDM if mark in tensors]):
        raise Refusal(
            f"{path} says that it was trained with EDM preconditioning (tensor {marks[0]}), the scheduler is a "
            f"{kind}; choose another base: this one is not computed here."
        )
    for name, (value, where) in said_of(tensors, metadata).items():
        have = scheduler.config.get(name)
        if name in chosen or have == value:
            continue
        remedy = f"set --base.scheduler.{name} {str(value).lower()}, or {str(have).lower()} if you know better"
        if name not in scheduler.config:
            remedy = f"name a base.config whose scheduler has {name}, e.g. a DDIMScheduler"
        raise Refusal(
            f"{path} says that it was trained with {name} {value} ({where}), a {kind} here has {have}; {remedy}."
        )
