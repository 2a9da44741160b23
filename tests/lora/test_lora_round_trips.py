"""What is trained is what every reader gets, whatever was trained: plain diffusers, an evaluation, the next run."""

from random import Random

import pytest
import torch
from peft import LoraConfig
from tiny import pipeline, pipeline_xl, trained, unet, unet_xl

from diffpo.core.weights import shift_weights
from diffpo.diffusion.evaluation.model import add_lora
from diffpo.diffusion.model.kohya import export_kohya
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.diffusion.pipelines.negative_networks import attach_negative, read_adapters
from diffpo.diffusion.pipelines.negative_parts import open_part
from diffpo.lora.switch import adapted

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
OTHERS = ["proj_in", "proj_out", "conv_in", "conv_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj"]
OTHERS += ["ff.net.0.proj", "ff.net.2", "downsamplers.0.conv", "upsamplers.0.conv", "time_embedding.linear_1"]
OTHERS += ["linear_2"]
MADE = {"sd": (pipeline, unet), "xl": (pipeline_xl, unet_xl)}
STATES = {"sd": 16, "xl": 48}


@pytest.fixture(scope="module", params=MADE)
def base(request):
    """The kind of a base, its pipeline, and what makes its UNet."""
    made, network = MADE[request.param]
    return request.param, made(), network


def output(network, kind: str) -> torch.Tensor:
    """In fp64, where only what is stored in files is rounded; the network stays so."""
    rng = torch.Generator().manual_seed(0)
    latents, states, texts, ids = (
        torch.randn(2, *shape, generator=rng, dtype=torch.float64)
        for shape in ((4, 8, 8), (5, STATES[kind]), (32,), (6,))
    )
    added = {"text_embeds": texts, "time_ids": ids} if kind == "xl" else None
    with torch.no_grad():
        return network.double().eval()(latents, 500, states, added_cond_kwargs=added).sample


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


def some_lora(network, rng: Random, dora: bool):
    """A network with a LoRA on layers, of ranks and alphas drawn at random, and all its numbers too."""
    targets = rng.sample(ATTENTION, rng.randint(0, 4)) + rng.sample(OTHERS, rng.randint(1, 6))
    config = LoraConfig(
        r=rng.randint(1, 5),
        lora_alpha=rng.choice([1, 2.5, 8]),
        target_modules=targets,
        rank_pattern={name: rng.randint(1, 6) for name in rng.sample(targets, rng.randint(0, len(targets)))},
        alpha_pattern={name: rng.choice([0.5, 1, 3]) for name in rng.sample(targets, rng.randint(0, len(targets)))},
        use_rslora=rng.random() < 0.3,
        use_dora=dora,
    )
    network.requires_grad_(False)
    network.add_adapter(config, "default")
    return trained(network, by=0.2)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("seed", range(2))
def test_every_reader_gets_the_policy(base, tmp_path, seed, dora):
    kind, pipe, made = base
    rng = Random(f"{seed} {kind} {dora}")
    pipe.unet = policy = some_lora(made(), rng, dora)
    LoRA().save(pipe, tmp_path / "run")
    pipe.unet, adapter = made(), WarmLoRA(str(tmp_path / "run"))
    adapter.attach(pipe.unet)
    adapter.save(pipe, tmp_path / "warm")
    wanted = output(policy, kind)
    assert (wanted - output(made(), kind)).norm() > 0.01 * wanted.norm()
    same(output(pipe.unet, kind), wanted)
    with adapter.off(pipe.unet):
        same(output(pipe.unet, kind), wanted)

    files = [tmp_path / "run", tmp_path / "warm"]
    if not dora:
        files.append(tmp_path / "kohya.safetensors")
        export_kohya(str(tmp_path / "run"), files[-1], torch.float32)
    for file in files:
        pipe.unet = made()
        pipe.load_lora_weights(file)
        same(output(pipe.unet, kind), wanted)
    for reader in rng.sample([evaluated, shared, blended, warmed], 2):
        same(output(reader(made(), str(files[-1]), pipe), kind), wanted)


def evaluated(network, path: str, pipe):
    """As `scripts/evaluate.py` loads it."""
    pipe.unet = network
    add_lora(pipe, path)
    return network


def warmed(network, path: str, pipe):
    """As the next run starts."""
    WarmLoRA(path).attach(network)
    return network


def blended(network, path: str, pipe):
    """As weights are mixed for a negative."""
    shift_weights(network, [(1.0, open_part(path, network.config))])
    return network


def shared(network, path: str, pipe):
    """As a negative shares the network."""
    pipe.unet = network
    scales = attach_negative(network, read_adapters(pipe, path, "unet"), 1.0)
    for layer in adapted(network):
        layer.set_adapter(list(scales))
    return network
