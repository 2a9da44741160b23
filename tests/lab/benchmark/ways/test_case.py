from dataclasses import replace

import pytest
import torch
from torch.optim import AdamW
from transformers import Adafactor

from diffpo.lab.benchmark.ways.case import launched

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "lora", "optimizer", "checkpointing"),
    [("sd15", False, AdamW, False), ("sdxl", False, Adafactor, True), ("sd15", True, AdamW, True)],
)
def test_options_are_those_of_the_launchers(shape, lora, optimizer, checkpointing):
    case = launched(shape, lora, 1, CPU)
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert isinstance(case.optimizer([parameter]), optimizer)
    assert case.checkpointing == checkpointing


def test_a_gpu_computes_in_bf16_and_a_cpu_in_fp32():
    assert launched("tiny", False, 1, torch.device("cuda")).storage == torch.bfloat16
    assert launched("tiny", False, 1, CPU).storage == torch.float32


def test_adapters_alone_are_trained_in_fp32():
    case = replace(launched("tiny", True, 1, CPU), bf16=True)
    unet = case.sizes.pipeline(CPU).unet.to(case.storage)
    trained = case.trainable(unet)
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert {name.split(".")[-3] for name, p in unet.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_pictures_are_on_the_host_and_have_the_resolution():
    raw = launched("tiny", False, 3, torch.device("cuda")).pixels()
    assert raw.pixels.device == CPU
    assert raw.pixels.shape == (2, 3, 3, 64, 64)
