"""What one would write by hand with diffusers and torch alone, from latents and text states."""

import copy
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.nn.functional import logsigmoid

from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.published import BETA, MAX_NORM, mean_squares

BARE = "bare loop"


class Bare:
    """One micro-batch per call; every `accumulate` of them an optimizer step.

    Args:
        pipeline: its UNet is taken over and changed.
    """

    def __init__(self, case: Case, pipeline: Any, accumulate: int = 1):
        self.case, self.unet, self.accumulate, self.calls = case, pipeline.unet, accumulate, 0
        self.noise: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.frozen = None if case.lora else copy.deepcopy(self.unet).requires_grad_(False).to(case.storage)
        if case.lora:
            self.unet.to(case.storage)
        self.parameters = case.trainable(self.unet)
        self.optimizer = case.optimizer(self.parameters)
        n, side, config = 2 * case.pairs, case.sizes.resolution // 8, self.unet.config
        self.latents = torch.randn(n, config.in_channels, side, side, device=case.device)
        states = torch.randn(case.pairs, 77, config.cross_attention_dim, device=case.device)
        self.states, self.added = states.repeat(2, 1, 1), None
        if case.sizes.is_xl:
            pooled = torch.randn(n, case.sizes.texts[1][0], device=case.device)
            ids = torch.tensor([8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side], device=case.device)
            self.added = {"text_embeds": pooled, "time_ids": ids.repeat(n, 1)}

    def __call__(self) -> None:
        noise = torch.randn_like(self.latents[: self.case.pairs]).repeat(2, 1, 1, 1)
        t = torch.randint(1000, (self.case.pairs,), device=self.case.device).repeat(2)
        noisy = self.noise.add_noise(self.latents, noise, t)
        inputs: Any = noisy, t, self.states
        with self.case.autocast():
            with torch.no_grad():
                if self.case.lora:
                    self.unet.disable_adapters()
                predicted = (self.frozen or self.unet)(*inputs, added_cond_kwargs=self.added).sample
                reference = mean_squares(predicted, noise)
                if self.case.lora:
                    self.unet.enable_adapters()
            error = mean_squares(self.unet(*inputs, added_cond_kwargs=self.added).sample, noise)
        (chosen, rejected), (ref_chosen, ref_rejected) = error.chunk(2), reference.chunk(2)
        margin = (chosen - rejected) - (ref_chosen - ref_rejected)
        (-logsigmoid(-0.5 * BETA * margin).mean() / self.accumulate).backward()
        self.calls += 1
        if self.calls % self.accumulate == 0:
            nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
