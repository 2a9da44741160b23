"""What every family has to do, on tiny random pipelines: what they are told is what their own pipelines tell."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKLQwenImage
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from tiny import pair_folder, trained
from tiny_families import chroma, flux, flux2, klein, pixart, qwen_image, sana, sd3, z_image
from tiny_runs import SHORT

from diffpo.core.references import store_matrices
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.base.quantize import FULL, cast_weights
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import encode_pairs
from diffpo.diffusion.families.chroma import Chroma
from diffpo.diffusion.families.common import unpack_square
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.families.flux2 import Flux2
from diffpo.diffusion.families.flux2_klein import Flux2Klein
from diffpo.diffusion.families.pixart_sigma import PixArtSigma
from diffpo.diffusion.families.qwen_image import QwenImage
from diffpo.diffusion.families.sana import Sana
from diffpo.diffusion.families.sd3 import SD3
from diffpo.diffusion.families.z_image import ZImage
from diffpo.diffusion.model.loading import LoadedStableDiffusion, StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.model.model_card import write_snippet
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.diffusion.objective.guard import Guard
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid
from diffpo.train.fit import fit
from diffpo.train.run import FitConfig, open_run

PROMPTS = ["a red circle", "two"]
SIDE = 64


@dataclass(frozen=True)
class Case:
    """A family and a tiny pipeline of it.

    Attributes:
        call: further arguments of the pipeline.
        asked: network inputs that the pipeline gave in its first call, as latents, told time and output of the
            conditional half.
    """

    family: Family
    make: Callable[[], Any]
    asked: Callable[[Any, tuple, dict, Any], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    call: dict[str, Any] = field(default_factory=dict)


def second_half(pipe, args, kwargs, out):
    """Guidance in one batch, the unconditional half first; the network takes the latents themselves."""
    x = args[0] if args else kwargs["hidden_states"]
    return x[2:], kwargs["timestep"][2:], out[2:]


def second_half_without_variance(pipe, args, kwargs, out):
    """As `second_half`; the network also says a variance."""
    x, told, out = second_half(pipe, args, kwargs, out)
    return x, told, out[:, :4]


def packed(pipe, args, kwargs, out):
    """The network takes tokens of 2 x 2 latents and a time from 0 to 1."""
    return unpack_square(kwargs["hidden_states"]), 1000 * kwargs["timestep"], unpack_square(out)


def folded(pipe, args, kwargs, out):
    """The network takes tokens of latents that are folded already."""
    x, out = (v[:, :16].transpose(1, 2).reshape(2, 16, 4, 4) for v in (kwargs["hidden_states"], out))
    return x, 1000 * kwargs["timestep"], out


def first_half_of_lists(pipe, args, kwargs, out):
    """Lists with an axis of frames, the conditional half first, a time that rises with cleanness, and another sign."""
    x, out = (torch.stack(v)[:2, :, 0] for v in (args[0], out))
    return x, 1000 - 1000 * args[1][:2], -out


CASES = {
    "SD3": Case(SD3(), sd3, second_half),
    "FLUX.1": Case(Flux(guidance=4.0, length=64), flux, packed),
    "FLUX.2 klein": Case(Flux2Klein(layers=(1, 2, 3), length=64), klein, folded),
    "FLUX.2 dev": Case(Flux2(guidance=4.0, layers=(1, 2, 3), length=256), flux2, folded),
    "Chroma": Case(Chroma(length=64), chroma, packed),
    "Qwen-Image": Case(QwenImage(), qwen_image, packed),
    "Z-Image": Case(ZImage(), z_image, first_half_of_lists),
    "Sana": Case(Sana(length=64), sana, second_half),
    "PixArt-Sigma": Case(PixArtSigma(length=64), pixart, second_half_without_variance),
    "SD3 without T5": Case(SD3(), lambda: sd3(with_t5=False), second_half),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def root(case, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("families")
    case.make().save_pretrained(root / "base")
    pair_folder(root / "pairs")
    return root


def base_of(case: Case, root: Path, **settings) -> StableDiffusion:
    return StableDiffusion(str(root / "base"), family=case.family, **settings)


def data_of(root: Path, **settings) -> PairData:
    return PairData(PairFolder(str(root / "pairs")), framing=Framing(SIDE, flip=False), workers=0, **settings)


def draw(case: Case, pipe: Any, kind: str = "latent") -> Any:
    pipe.set_progress_bar_config(disable=True)
    rng = [torch.Generator().manual_seed(i) for i in range(2)]
    told = {"height": SIDE, "width": SIDE, "generator": rng, "output_type": kind, "num_inference_steps": 2}
    return pipe(prompt=list(PROMPTS), **case.family.arguments(4.0) | told | case.call).images


def test_pictures_of_an_evaluation_are_the_pipelines_own(case, root):
    """Guided, and told prompts, as the family that was named does."""
    pipe = load_pipeline(base_of(case, root))
    ours = generate_pictures(pipe, PROMPTS, [0, 1], steps=2, guidance=4.0, side=SIDE)
    theirs = draw(case, pipe, "pil")
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(one).astype(int), np.asarray(other).astype(int), atol=1)


@torch.no_grad()
def test_the_network_is_told_what_its_pipeline_tells_it(case):
    pipe, seen = case.make(), []
    network = pipe.components[case.family.part]
    plain = network.forward

    def spy(*args, **kwargs):
        out = plain(*args, **kwargs)
        seen.append((args, kwargs, out[0]))
        return out

    network.forward = spy
    draw(case, pipe)
    del network.forward
    x, told, theirs = case.asked(pipe, *seen[0])
    family = case.family
    path = family.path(pipe.scheduler)
    assert told[0] in path.told or torch.isclose(path.told, told[0].float(), atol=1.0).any()
    cond = conditioning(family, pipe)
    ours = family(network, x, told, cond)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def conditioning(family: Family, pipe: Any, prompts=PROMPTS) -> Conditioning:
    return Conditioning(family.states(pipe, list(prompts)))


@torch.no_grad()
def test_latents_become_the_pictures_of_the_pipeline(case):
    pipe = case.make()
    latents = case.family.drawn(pipe, draw(case, pipe))
    ours = (case.family.decoded(pipe, latents) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, draw(case, pipe, "pt"), rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_is_decoded_undoes_what_a_posterior_is_normalized_by(case):
    """Decoded and raw: the VAE's own mean, decoded by the VAE."""
    pipe = case.make()
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = case.family.posterior(pipe, pixels)
    assert mean.shape == std.shape == case.family.drawn(pipe, draw(case, pipe)).shape
    theirs = pipe.vae.decode(own_mean(pipe.vae, pixels), return_dict=False)[0]
    ours = case.family.decoded(pipe, mean * case.family.scaling(pipe))
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-5)


def own_mean(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Of a VAE of frames, of the one frame; Sana's has no posterior."""
    found = vae.encode(pixels[:, :, None] if isinstance(vae, AutoencoderKLQwenImage) else pixels)
    return found.latent if isinstance(vae, AutoencoderDC) else found.latent_dist.mean


@torch.no_grad()
def test_the_scheduler_fed_with_the_target_of_the_path_lands_on_the_picture(case):
    pipe = case.make()
    path, theirs = case.family.path(pipe.scheduler), pipe.scheduler
    theirs.set_timesteps(8, **({"mu": 0.5} if theirs.config.get("use_dynamic_shifting") else {}))
    x_0, x = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        at = (path.told - t).abs().argmin()
        a, s = path.a[at], path.s[at]
        eps = (x - a * x_0) / s
        target = next(u for u in (eps - x_0, eps) if torch.allclose(path.prediction.eps(u, x, a, s), eps, atol=1e-3))
        x = theirs.step(target, t, x).prev_sample
    torch.testing.assert_close(x, x_0, rtol=0, atol=2e-2)


@torch.no_grad()
def test_prompts_of_other_lengths_in_a_batch_change_nothing(case):
    pipe = case.make()
    network, family = pipe.components[case.family.part], case.family
    mean, _ = family.posterior(pipe, torch.zeros(2, 3, SIDE, SIDE))
    x, told = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([300.0, 700.0])
    together = family(network, x, told, conditioning(family, pipe))
    alone = [
        family(network, x[[i]], told[[i]], conditioning(family, pipe, [prompt])) for i, prompt in enumerate(PROMPTS)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "LoRA"])
def test_a_run_is_saved_as_a_plain_pipeline_loads_it_and_leaves_its_reference_alone(case, root, tmp_path, adapter):
    base = base_of(case, root, adapter=adapter)
    model, data = base.load(), data_of(root)
    pairs = data.open(0)
    frozen, before = model.reference(), draw(case, model.pipeline())
    config = FitConfig(**SHORT | {"log_every": 100})
    objective = DenoisingPreference(loss=Sigmoid(500.0), guard=Guard(0.5))
    batch, draws = model.first(pairs, 2)
    first = objective(model.denoiser, frozen, batch, draws)
    assert first.loss.item() == pytest.approx(np.log(2), abs=1e-5)
    fit(objective, model.network, frozen, pairs, model.prepare, adam, open_run(config, tmp_path))
    model.save(tmp_path)
    tuned = draw(case, model.pipeline())
    assert (tuned - before).abs().max() > 1e-3
    for loaded in (load_tuned(base, tmp_path), loaded_by_card(base, tmp_path)):
        torch.testing.assert_close(draw(case, loaded), tuned, rtol=0, atol=1e-5)
    with torch.no_grad():
        again = frozen(lambda network: replace(model.denoiser, unet=network).out(batch.latents, at(2), batch.cond))
        plain = base_of(case, root).load().denoiser.out(batch.latents, at(2), batch.cond)
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-6)  # bits depend on where tensors lie in memory


def at(b: int) -> torch.Tensor:
    return torch.full((b,), 500)


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=3e-2)


def loaded_by_card(base: StableDiffusion, folder: Path) -> Any:
    """By the lines that the model card says."""
    names: dict[str, Any] = {}
    exec(write_snippet(base, base.family.pipeline.__name__, str(folder)), names)
    return names["pipe"]


def errors(model: LoadedStableDiffusion, data: PairData) -> torch.Tensor:
    pairs = data.open(0)
    batch, draws = model.first(pairs, 3)
    return DenoisingPreference()(model.denoiser, model.reference(), batch, draws).metrics["mse/policy_chosen"]


def test_encoded_pairs_train_as_pictures_do(case, root, tmp_path):
    data, base = data_of(root, caption_dropout=0.5), base_of(case, root)
    model = base.load()
    trained(model.network, 0.01)
    wanted = errors(model, data)
    for encode, encodes in (("pairs", False), ("pictures", "prompts")):
        encode_pairs(base, data, tmp_path / encode, batch_size=3, encode=encode)
        bare = base.load(encodes=encodes, draws=False)
        assert bare.parts.vae is None
        bare.network.load_state_dict(model.network.state_dict())
        ours = errors(bare, replace(data, source=EncodedPairs(str(tmp_path / encode))))
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_frozen_weights_are_loaded_in_the_type_that_they_are_kept_in(case, root):
    """To the same bits as by way of fp32."""
    base = base_of(case, root, adapter=LoRA(rank=2))
    at_once, later = (load_pipeline(base, storing=storing) for storing in (base.storing(torch.bfloat16), FULL))
    store_matrices(later.transformer.requires_grad_(False), torch.bfloat16)
    encoders = [name for name in case.family.encoders if name.startswith("text_encoder") and later.components[name]]
    for name in encoders:
        cast_weights(later.components[name], torch.bfloat16)
    assert {p.dtype for p in at_once.transformer.parameters()} == {torch.bfloat16, torch.float32}
    for name in ("transformer", *encoders):
        ours, theirs = at_once.components[name], later.components[name]
        assert type(ours) is type(theirs)
        tensors = dict(ours.named_parameters()) | dict(ours.named_buffers())
        for weight, wanted in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if weight != "embed_tokens.embed_scale":  # Gemma's, which is rounded where it is used
                assert tensors[weight].dtype == wanted.dtype, weight
            assert torch.equal(tensors[weight], wanted.to(tensors[weight].dtype)), weight


def test_another_family_is_refused_by_the_name_of_the_right_one(case, root):
    right = type(case.family).__name__
    with pytest.raises(Refusal, match=f"is a {case.family.pipeline.__name__}; set base.family to .*families.{right}"):
        StableDiffusion(str(root / "base")).load()


def test_sides_of_another_multiple_are_refused_before_anything_is_encoded(case, root, tmp_path):
    side = SIDE + 8
    data = replace(data_of(root), framing=Framing(side, flip=False))
    with pytest.raises(Refusal, match=f"sides are multiples of {case.family.multiple}, not {side} x {side}; set data"):
        encode_pairs(base_of(case, root), data, tmp_path / "encoded")


def test_a_kernel_that_cannot_act_is_refused_and_one_that_can_is_set(case):
    network = case.make().components[case.family.part]
    case.family.attend(network, "native")
    if isinstance(case.family, SD3 | Sana | QwenImage | ZImage | PixArtSigma | Chroma):
        with pytest.raises(Refusal, match="base.attention flash cannot act on a .*; set it to native"):
            case.family.attend(network, "flash")
    else:
        case.family.attend(network, "flash")
        found = {getattr(module.processor, "_attention_backend", None) for module in attentions(network)}
        assert found == {AttentionBackendName._NATIVE_FLASH}
    assert _AttentionBackendRegistry.get_active_backend()[0] == AttentionBackendName.NATIVE  # of other networks


def test_a_lora_of_klein_is_in_both_kinds_of_blocks():
    network = klein().transformer
    LoRA(rank=2).suited(Flux2Klein().lora_layers(network)).attach(network)
    layers = {name.partition(".lora_A")[0] for name, _ in network.named_parameters() if ".lora_A." in name}
    double = {f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert layers == double | {f"single_transformer_blocks.0.attn.{name}" for name in ("to_qkv_mlp_proj", "to_out")}


def attentions(network: Any) -> list[Any]:
    return [module for module in network.modules() if hasattr(module, "processor")]
