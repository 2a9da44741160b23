"""Trains the two bases of the scenes on one VAE: a UNet that predicts v, and a rectified-flow transformer."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffpo.lab.scenes.build import CHANNELS, CONTEXT, SIDE, render_pictures
from diffpo.lab.scenes.captions import noisy_caption
from diffpo.lab.scenes.scenes import Facts, random_facts
from diffpo.lab.shapes.build import encode, seeded
from diffpo.train.report.forecast import computes_bf16

WIDTH = 128
OPTIONAL = ("text_encoder_3", "tokenizer_3")
SKEW = 1.5
ZEROS = 1  # states that stand for those of the missing T5: pipelines take `max_sequence_length=1`


@dataclass(frozen=True)
class EncodedScenes:
    """Scenes whose pictures are rendered and encoded once; their captions are written anew at each visit."""

    facts: list[Facts]
    means: Tensor
    deviations: Tensor

    def draw(self, rng: np.random.Generator, noise: torch.Generator, batch: int) -> tuple[list[str], Tensor]:
        """Captions and latents of a batch."""
        picks = rng.integers(len(self.facts), size=batch)
        some = torch.from_numpy(picks)
        spread = torch.randn(batch, *self.means.shape[1:], generator=noise)
        captions = [noisy_caption(self.facts[i], rng) for i in picks]
        return captions, self.means[some] + self.deviations[some] * spread


def random_scenes(number: int, seed: int = 1) -> list[Facts]:
    rng = np.random.default_rng(seed)
    return [random_facts(rng, "training") for _ in range(number)]


def encode_scenes(vae: Any, number: int, seed: int = 1) -> EncodedScenes:
    """Pictures of random scenes, encoded."""
    facts, rng = random_scenes(number, seed), np.random.default_rng([seed, 1])
    parts = [encode(vae, render_pictures(facts[i : i + 500], rng)) for i in range(0, number, 500)]
    return EncodedScenes(facts, *(torch.cat(part) * vae.config.scaling_factor for part in zip(*parts, strict=True)))


def untrained_unet(vae: Any, tokenizer: CLIPTokenizer, seed: int = 0) -> StableDiffusionPipeline:
    """5.3 million parameters, on Stable Diffusion's schedule with zero terminal SNR (arXiv:2305.08891)."""
    unet = seeded(
        seed,
        UNet2DConditionModel,
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        attention_head_dim=(2, 2, 4),  # heads, as in Stable Diffusion: this field is misnamed in diffusers
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=WIDTH,
    )
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )
    text = seeded(seed, CLIPTextModel, text_config(tokenizer, WIDTH, 2))
    return StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)  # type: ignore[reportArgumentType]


def untrained_flow(vae: Any, tokenizer: CLIPTokenizer, seed: int = 0) -> StableDiffusion3Pipeline:
    """3.5 million parameters; two text encoders and no T5."""
    transformer = seeded(
        seed,
        SD3Transformer2DModel,
        sample_size=SIDE,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=SIDE // 2,
        qk_norm="rms_norm",
    )
    half = text_config(tokenizer, WIDTH // 2, 3)
    first, second = (seeded(seed + i, CLIPTextModelWithProjection, half) for i in range(2))
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return StableDiffusion3Pipeline(transformer, scheduler, vae, first, tokenizer, second, tokenizer, None, None)  # type: ignore[reportArgumentType]


def load_scene_base(folder: Path | str) -> Any:
    """A pipeline in fp32; parts that it was saved without, as SD3's T5, stay away: diffusers wants to hear that."""
    parts = json.loads((Path(folder) / "model_index.json").read_text())
    absent = {name: None for name, part in parts.items() if part == [None, None] and name in OPTIONAL}
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **absent)


def text_config(tokenizer: Any, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tokens(tokenizer: Any, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def velocity_loss(pipe: Any, captions: list[str], latents: Tensor, noise: torch.Generator) -> Tensor:
    """Mean squared error of v (arXiv:2202.00512), low noise more often than high: shapes are learned there, last."""
    eps = torch.randn(latents.shape, generator=noise)
    t = (1000 * torch.rand(len(latents), generator=noise) ** SKEW).long()
    states = pipe.text_encoder(tokens(pipe.tokenizer, captions)).last_hidden_state
    predicted = pipe.unet(pipe.scheduler.add_noise(latents, eps, t), t, states).sample
    return (predicted.float() - pipe.scheduler.get_velocity(latents, eps, t)).square().mean()


def flow_loss(pipe: Any, captions: list[str], latents: Tensor, noise: torch.Generator) -> Tensor:
    """Mean squared error of the flow's velocity at logit-normal times (arXiv:2403.03206)."""
    eps = torch.randn(latents.shape, generator=noise)
    t = torch.randn(len(latents), generator=noise).sigmoid()
    ids = tokens(pipe.tokenizer, captions)
    read = [encoder(ids, output_hidden_states=True) for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    states = torch.cat([one.hidden_states[-2] for one in read], dim=-1)
    states = torch.cat([states, states.new_zeros(len(ids), ZEROS, WIDTH)], dim=1)
    pooled = torch.cat([one.text_embeds for one in read], dim=-1)
    noisy = latents.lerp(eps, t.view(-1, 1, 1, 1))
    predicted = pipe.transformer(noisy, states, pooled, timestep=t * 1000).sample
    return (predicted.float() - (eps - latents)).square().mean()


@dataclass(frozen=True)
class Kind:
    """One of the two bases.

    Attributes:
        trained: parts of the pipeline.
        loss: of captions and latents.
    """

    name: str
    untrained: Callable[[Any, CLIPTokenizer, int], Any]
    trained: tuple[str, ...]
    loss: Callable[[Any, list[str], Tensor, torch.Generator], Tensor]


UNET = Kind("unet", untrained_unet, ("unet", "text_encoder"), velocity_loss)
FLOW = Kind("flow", untrained_flow, ("transformer", "text_encoder", "text_encoder_2"), flow_loss)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al., 2024), as `torch.optim.Muon` with its defaults.

    That one computes in bf16 in any case: 12 of the 13 seconds of a step on a CPU that has to imitate it.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, precision: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 0.05)
                update = make_orthogonal(p.grad.lerp(average, 0.95).to(self.precision))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def make_orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """All singular values of a matrix moved near 1, by Newton-Schulz iterations."""
    if matrix.shape[0] > matrix.shape[1]:
        return make_orthogonal(matrix.T, steps).T
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = torch.addmm(matrix, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), matrix, beta=3.4445)
    return matrix


def train_denoiser(
    pipe: Any,
    kind: Kind,
    shown: EncodedScenes,
    steps: int,
    watch: Callable[[int, Any], None] = lambda step, pipe: None,
    every: int = 1500,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> Any:
    """Train a base on captioned scenes, in bf16 where the CPU multiplies it; the average of its weights returns.

    bf16 halves the time on such CPUs. On others, that imitate it, a step of the flow took 8 times as long as in fp32.

    Args:
        watch: sees the step and the pipeline with the average of its weights, every `every` steps.
    """
    has_bf16 = computes_bf16(torch.device("cpu"))
    network = nn.ModuleDict({name: getattr(pipe, name) for name in kind.trained}).train()
    average = copy.deepcopy(network).eval()
    averaged = pipe.__class__(**{**pipe.components, **average})
    matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    optimizers = [
        Muon(matrices, lr, weight_decay=0.01, precision=torch.bfloat16 if has_bf16 else torch.float32),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=1e-3),
    ]
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        captions, latents = shown.draw(rng, noise, batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16):
            value = kind.loss(pipe, captions, latents, noise)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, step / 200, 3 * (1 - step / steps) + 0.01)
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            kept = min(0.998, step / (10 + step))
            torch._foreach_lerp_([*average.parameters()], [*network.parameters()], 1 - kept)
        if step % every == 0 or step == steps:
            print(f"step {step}, loss {value.item():.4f}", flush=True)
            watch(step, averaged)
    return averaged
