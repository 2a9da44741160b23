"""The published way: a training step as the Diffusion-DPO scripts take it, from pixels, all options of theirs on.

Written from what github.com/SalesforceAIResearch/DiffusionDPO (all of the UNet) and github.com/huggingface/diffusers,
research_projects/diffusion_dpo (LoRA) do, in their order. What differs favours them: no accelerate around the step, no
trackers, and captions of an SDXL come as tokens. Attention is PyTorch's instead of xformers', half precision is bf16.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import accelerate
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from diffpo.lab.benchmark.ways.case import PROMPT, Case

PUBLISHED = "published way"
BETA = 5000.0
MAX_NORM = 1.0
VAE, TEXT, REFERENCE, POLICY, OPTIMIZER = "VAE", "text encoders", "reference", "policy", "clipping and optimizer"
TOGETHER = 8  # pictures per pass of the VAE in the LoRA scripts


class Published(ABC):
    """One micro-batch per call; every `accumulate` of them an optimizer step.

    Attributes:
        reference: the second network, where there is one.
        log: numbers that were read last: loss, error of policy and reference, share of pairs ranked right.

    Args:
        pipeline: its parts are taken over and changed.
    """

    def __init__(self, case: Case, pipeline: Any, accumulate: int = 1):
        self.case, self.accumulate, self.calls = case, accumulate, 0
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.encoders = [pipeline.text_encoder, *([pipeline.text_encoder_2] if case.sizes.is_xl else [])]
        for part in (self.vae, *self.encoders):
            part.requires_grad_(False).eval().to(case.storage)
        self.reference: Any = None
        self.parameters = self._networks()
        self.optimizer = case.optimizer(self.parameters)
        self.noise: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
        raw = case.pixels()
        self.pixels = (raw.pixels.float() / 127.5 - 1).movedim(0, 1).flatten(1, 2)
        self.tokens = pipeline.tokenizer(
            [PROMPT] * case.pairs, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        self.log: list[float] = []

    @abstractmethod
    def _networks(self) -> list[nn.Parameter]:
        """Prepare policy and reference; what is trained."""

    @abstractmethod
    def encoded(self, pixels: Tensor) -> Tensor:
        """Latents, sampled."""

    @abstractmethod
    def frozen(self, noisy: Tensor, t: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        """What the reference predicts."""

    def __call__(self) -> None:
        device = self.case.device
        pixels, tokens = self.pixels.to(device), self.tokens.to(device)
        with torch.no_grad():
            latents = self.encoded(torch.cat(pixels.chunk(2, dim=1)).to(self.vae.dtype))
            latents = latents * self.vae.config.scaling_factor
        noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
        t = torch.randint(0, 1000, (len(latents),), device=device).chunk(2)[0].repeat(2)
        noisy = self.noise.add_noise(latents, noise, t)
        states, added = self.conditioning(tokens)
        error = mean_squares(self.policy(noisy, t, states, added), noise)
        reference = mean_squares(self.frozen(noisy, t, states, added), noise)
        chosen, rejected = error.chunk(2)
        ref_chosen, ref_rejected = reference.chunk(2)
        z = -0.5 * BETA * ((chosen - rejected) - (ref_chosen - ref_rejected))
        loss = -logsigmoid(z).mean()
        self.read(loss, error.mean(), reference.mean(), (z > 0).float().mean())
        (loss / self.accumulate).backward()
        self.calls += 1
        if self.calls % self.accumulate == 0:
            self.update()

    def policy(self, noisy: Tensor, t: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        """What the policy predicts for both sides at once."""
        with self.case.autocast():
            return self.unet(noisy, t, states, added_cond_kwargs=added).sample

    def read(self, *numbers: Tensor) -> None:
        """For the log and the progress bar, at each micro-batch."""
        self.log = [number.item() for number in numbers]

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def example(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs on the device: pictures, tokens, noisy latents and their times."""
        device, case = self.case.device, self.case
        pixels = torch.cat(self.pixels.to(device).chunk(2, dim=1)).to(self.vae.dtype)
        side = case.sizes.resolution // 8
        noisy = torch.randn(len(pixels), self.unet.config.in_channels, side, side, device=device, dtype=case.storage)
        return pixels, self.tokens.to(device), noisy, torch.randint(0, 1000, (len(pixels),), device=device)

    def parts(self) -> dict[str, Callable[[], object]]:
        """What a step is made of, each alone on inputs that stay the same; the optimizer needs the policy's
        gradients, so it comes after it."""
        pixels, tokens, noisy, t = self.example()
        states, added = self.conditioning(tokens)

        def policy() -> None:
            mean_squares(self.policy(noisy, t, states, added), noisy).mean().backward()

        return {
            VAE: torch.no_grad()(lambda: self.encoded(pixels)),
            TEXT: lambda: self.conditioning(tokens),
            REFERENCE: lambda: self.frozen(noisy, t, states, added),
            POLICY: policy,
            OPTIMIZER: self.update,
        }

    @torch.no_grad()
    def conditioning(self, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Text states of both sides, encoded once per pair, and what an SDXL is told besides."""
        if not self.case.sizes.is_xl:
            return self.encoders[0](tokens)[0].repeat(2, 1, 1), None
        outputs = [encoder(tokens, output_hidden_states=True) for encoder in self.encoders]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).repeat(2, 1, 1)
        side = self.case.sizes.resolution
        ids = torch.tensor([side, side, 0, 0, side, side], dtype=states.dtype, device=states.device)
        return states, {"text_embeds": outputs[1].text_embeds.repeat(2, 1), "time_ids": ids.repeat(len(states), 1)}


class PublishedFull(Published):
    """All of the UNet: the reference is a second one in half precision; of an SDXL it, VAE and text encoders lie in
    host memory between uses."""

    def _networks(self) -> list[nn.Parameter]:
        self.reference = type(self.unet).from_config(self.unet.config).to(self.case.device)
        self.reference.load_state_dict(self.unet.state_dict())
        self.reference.requires_grad_(False).to(self.case.storage)
        if self.case.sizes.is_xl and self.case.device.type == "cuda":
            for part in (self.vae, *self.encoders, self.reference):
                accelerate.cpu_offload(part)
        return self.case.trainable(self.unet)

    def encoded(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent_dist.sample()

    @torch.no_grad()
    def frozen(self, noisy: Tensor, t: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        return self.reference(noisy, t, states, added_cond_kwargs=added).sample


class PublishedLoRA(Published):
    """Adapters in fp32 on a UNet that is stored in half precision whole; switched off, it is the reference. The VAE
    encodes eight pictures at a time, an SDXL's in fp32."""

    def _networks(self) -> list[nn.Parameter]:
        if self.case.sizes.is_xl:
            self.vae.float()
        self.unet.to(self.case.storage)
        return self.case.trainable(self.unet)

    def encoded(self, pixels: Tensor) -> Tensor:
        return torch.cat([self.vae.encode(some).latent_dist.sample() for some in pixels.split(TOGETHER)])

    @torch.no_grad()
    def frozen(self, noisy: Tensor, t: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        self.unet.disable_adapters()
        with self.case.autocast():
            out = self.unet(noisy, t, states, added_cond_kwargs=added).sample
        self.unet.enable_adapters()
        return out


def mean_squares(predicted: Tensor, noise: Tensor) -> Tensor:
    return (predicted.float() - noise.float()).square().mean(dim=(1, 2, 3))


def published(case: Case, pipeline: Any, accumulate: int = 1) -> Published:
    return (PublishedLoRA if case.lora else PublishedFull)(case, pipeline, accumulate)
