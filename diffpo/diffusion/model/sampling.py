"""Pictures of a pipeline: drawn in memory, and by a sampler of rounds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from accelerate import PartialState
from diffusers import ModelMixin
from PIL import Image
from tqdm import tqdm

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.base.quantize import cast_weights
from diffpo.diffusion.model.pipeline import family_of
from diffpo.rounds.roles import Sampled, Sampler

SEEDS = 2**31 - 1
PIXELS = 2**22  # decoded at a time, as many as are encoded (diffpo.diffusion.model.loading)

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class PictureSampler(Sampler):
    """Pictures of a diffusers pipeline.

    Each starts from the noise of a seed of its own, which is recorded, drawn for its (seed, round, prompt, candidate).
    A batch holds candidates of one prompt alone, so a picture depends on nothing else, however prompts are shared out
    among processes and runs.

    Args:
        steps: denoising steps.
        guidance: classifier-free guidance scale. Pairs that are drawn with guidance hold what the trained branch alone
            never draws; 1 is none.
        batch_size: candidates of a prompt at a time.
        side: of the square pictures in pixels; null is what the network was trained on.
        dtype: of network and text encoders (the VAE decodes in fp32); null is float16 on an accelerator, else float32.

    Raises:
        Refusal: if a count is not positive; when it draws, if the network or its scheduler cannot do so.
    """

    steps: int = 25
    guidance: float = 7.5
    batch_size: int = 8
    side: int | None = None
    dtype: Precision | None = None
    makes, together = "pictures", 8

    def __post_init__(self):
        require_at_least(1, **{"sampler.steps": self.steps, "sampler.batch_size": self.batch_size})

    @property
    def identity(self) -> dict[str, Any]:
        return {"sampler": type(self).__name__, **asdict(self)}

    def __call__(self, model: Any, prompts: Sequence[str], k: int, draws: Draws) -> list[list[Sampled]]:
        """k pictures for each of b prompts, as k lists of b.

        Args:
            model: a pipeline; it is moved to the accelerator, if there is one.
        """
        state: Any = PartialState()
        pipeline = move_pipeline(model, state.device, self.dtype)
        seeds = torch.stack([draws.integers(f"seed/{number}", SEEDS) for number in range(k)]).tolist()
        about, sides = {"guidance": self.guidance, "steps": self.steps}, list[list[Sampled]]([] for _ in range(k))
        for row, prompt in enumerate(prompts):
            own = [side[row] for side in seeds]
            made = generate_pictures(
                pipeline, [prompt] * k, own, self.steps, self.guidance, self.batch_size, side=self.side
            )
            for side, picture, seed in zip(sides, made, own, strict=True):
                side.append(Sampled(picture, {"seed": seed, **about}))
        return sides


def move_pipeline(pipeline: Any, device: torch.device, dtype: Precision | None) -> Any:
    """The pipeline moved there, in the type that pictures are drawn in.

    Args:
        dtype: of all parts but the VAE; None is float16 on an accelerator, else float32.
    """
    usual = torch.float32 if device.type == "cpu" else torch.float16
    wanted = getattr(torch, dtype) if dtype else usual
    pipeline.to(device)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != "vae":
            cast_part(part, wanted)
    return pipeline


def cast_part(part: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give a network of diffusers or a text encoder a type, as loading it in that type does."""
    if isinstance(part, ModelMixin):
        torch.nn.Module.to(part, dtype)  # diffusers' own warns about parts that these networks do not have
    else:
        cast_weights(part, dtype)


def generate_pictures(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 7.5,
    batch_size: int = 16,
    title: str | None = None,
    side: int | None = None,
) -> list[Image.Image]:
    """One picture per prompt; picture i starts from the noise of `seeds[i]`, drawn on the CPU.

    Args:
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        title: shown on a progress bar; None shows none.
        side: of the square pictures in pixels; None is what the network was trained on.

    Raises:
        Refusal: if there are more steps than the scheduler knows, or the network draws no such sides.
    """
    if steps > (most := pipeline.scheduler.config.num_train_timesteps):
        raise Refusal(f"{steps} denoising steps are more than the {most} that the scheduler knows; take fewer.")
    pipeline.set_progress_bar_config(disable=True)
    made, family = list[Image.Image](), family_of(pipeline)
    if side is not None:
        require_side(pipeline, family, side)
    for begin in tqdm(range(0, len(prompts), batch_size), desc=title, disable=title is None):
        some = slice(begin, begin + batch_size)
        latents = pipeline(
            prompt=list(prompts[some]),
            num_inference_steps=steps,
            **family.arguments(guidance),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[some]],
            height=side,
            width=side,
            output_type="latent",
        ).images
        made += decode_latents(pipeline, latents)
    return made


def require_side(pipeline: Any, family: Family, side: int) -> None:
    """Raise a Refusal if a pipeline draws no square pictures with sides of so many pixels."""
    if side < 1 or side % family.multiple:
        raise Refusal(f"{type(family).__name__} draws sides that are multiples of {family.multiple}, not {side}.")
    latents = side * family.patch // family.multiple
    family.require_place(pipeline.components[family.part], (1, latents, latents))


@torch.no_grad()
def decode_latents(pipeline: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of a pipeline's latents, decoded in the VAE's own type under autocast too: SDXL's overflows in fp16."""
    family = family_of(pipeline)
    latents = family.drawn(pipeline, latents)
    pictures = max(1, PIXELS // (pipeline.vae_scale_factor**2 * latents.shape[-1] * latents.shape[-2]))
    made: list[Image.Image] = []
    with torch.autocast(latents.device.type, enabled=False):
        for some in latents.to(pipeline.vae.dtype).split(pictures):
            made += pipeline.image_processor.postprocess(family.decoded(pipeline, some), output_type="pil")
    return made
