from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from diffpo.lab.benchmark.cost.arithmetic import Costs, counted_flops, flops_of, matrix_rate
from diffpo.lab.benchmark.cost.counted import without_numbers
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.published import OPTIMIZER, POLICY, REFERENCE, TEXT, VAE

CPU = torch.device("cpu")
COSTS = Costs(vae=2.2, text=0.2, reference=1.6, policy=4.8, optimizer=0.0)


def test_a_multiply_add_counts_as_two():
    layer, x = nn.Linear(3, 5, bias=False), torch.ones(7, 3)
    assert flops_of(lambda: layer(x)) == 2 * 7 * 3 * 5


def test_attention_counts_as_its_products_in_every_release_of_torch():
    q, k = torch.ones(2, 3, 7, 8, requires_grad=True), torch.ones(2, 3, 5, 8)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert flops_of(lambda: scaled_dot_product_attention(q, k, k)) == 2 * (2 * 2 * 3 * 7 * 5 * 8)
        trained = flops_of(lambda: scaled_dot_product_attention(q, k, k).sum().backward())
    assert trained == (2 + 5) * (2 * 2 * 3 * 7 * 5 * 8)  # the backward pass computes the scores again


def test_the_parts_are_those_of_a_bare_loop():
    case = launched("tiny", False, 1, CPU)
    with without_numbers():
        pipe = case.sizes.pipeline(CPU)
        side = case.sizes.resolution
        pixels, latents = torch.ones(2, 3, side, side), torch.ones(2, 4, side // 8, side // 8)
        states = pipe.text_encoder(torch.ones(1, 77, dtype=torch.long))[0].repeat(2, 1, 1).detach()
        text = flops_of(lambda: pipe.text_encoder(torch.ones(1, 77, dtype=torch.long)))
        vae = flops_of(torch.no_grad()(lambda: pipe.vae.encode(pixels)))
        reference = flops_of(torch.no_grad()(lambda: pipe.unet(latents, 1, states)))
        policy = flops_of(lambda: pipe.unet(latents, 1, states).sample.mean().backward())
    assert counted_flops(case) == Costs(vae, text, reference, policy, 0.0)


def test_gains_follow_from_the_parts():
    assert COSTS.pixels == pytest.approx(8.8)
    assert COSTS.gain_without("vae", "text") == pytest.approx(8.8 / 6.4)
    assert COSTS.gain_without("vae", "text", "reference") == pytest.approx(8.8 / 4.8)
    assert COSTS.gain_without() == 1


def test_costs_are_medians_of_what_was_timed():
    names = (VAE, TEXT, REFERENCE, POLICY, OPTIMIZER)
    seconds = {name: [1.0, float(i), 100.0] for i, name in enumerate(names, start=2)} | {"other": [7.0]}
    assert Costs.medians(seconds) == Costs(2.0, 3.0, 4.0, 5.0, 6.0)


def test_the_backward_pass_is_twice_the_forward_pass_and_checkpointing_adds_another():
    case = launched("tiny", False, 1, CPU)
    plain, saving = (counted_flops(replace(case, checkpointing=on)) for on in (False, True))
    assert plain.policy == pytest.approx(3 * plain.reference, rel=0.1)
    assert saving.policy == pytest.approx(plain.policy + plain.reference, rel=0.1)
    assert (saving.vae, saving.text, saving.optimizer) == (plain.vae, plain.text, 0.0)


def test_frozen_weights_need_no_gradients():
    cases = (replace(launched("tiny", lora, 1, CPU), checkpointing=False) for lora in (False, True))
    full, adapters = map(counted_flops, cases)
    assert adapters.policy < 0.9 * full.policy


def test_the_matrix_rate_is_that_of_the_best_product():
    times = iter([0.0, 2.0] * 5 + [0.0, 1.0] + [0.0, 2.0] * 4)
    assert matrix_rate(CPU, torch.float32, lambda: next(times), side=10) == 2 * 10**3


def test_counts_of_sd15_are_those_in_the_plan_and_the_quarter_relates_as_they_do():
    small, large = (counted_flops(launched(shape, False, 1, CPU)) for shape in ("quarter", "sd15"))
    assert large.reference / 2 == pytest.approx(0.80e12, rel=0.01)
    assert large.vae / 2 == pytest.approx(1.12e12, rel=0.01)
    assert large.gain_without("vae") == pytest.approx(1.34, abs=0.01)
    assert large.gain_without("vae", "text", "reference") == pytest.approx(1.78, abs=0.01)
    for parts in (["vae", "text"], ["reference"], ["vae", "text", "reference"]):
        assert small.gain_without(*parts) == pytest.approx(large.gain_without(*parts), rel=0.02)
