"""LoRA on a base in few bits: what is quantized, that it trains, and that the plain base takes its LoRA.

diffusers refuses bitsandbytes on a CPU, though bitsandbytes itself has CPU kernels; the fixture takes that check away,
and all else is as users load it.
"""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from diffusers.quantizers.bitsandbytes import bnb_quantizer
from tiny import pair_folder
from tiny_families import chroma, flux, flux2, klein, pixart, qwen_image, sana, sd3, z_image
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.diffusion.base import quantize
from diffpo.diffusion.base.quantize import (
    Kind,
    Quantizing,
    find_linear,
    list_kept,
    quantized_layers,
    require_known,
)
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import encode_pairs
from diffpo.diffusion.encode.fingerprint import require_encoded_for
from diffpo.diffusion.families.chroma import Chroma
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.families.flux2 import Flux2
from diffpo.diffusion.families.flux2_klein import Flux2Klein
from diffpo.diffusion.families.pixart_sigma import PixArtSigma
from diffpo.diffusion.families.qwen_image import QwenImage
from diffpo.diffusion.families.sana import Sana
from diffpo.diffusion.families.sd3 import SD3
from diffpo.diffusion.families.sdxl import SDXL
from diffpo.diffusion.families.z_image import ZImage
from diffpo.diffusion.model.loading import (
    QUANTIZE_TEXTS,
    LoadedStableDiffusion,
    StableDiffusion,
    load_pipeline,
    load_tuned,
)
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.model.model_card import describe_path
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.reference_cache import identify_answers
from diffpo.diffusion.objective.space import OutputSpace
from diffpo.losses.logistic import Sigmoid
from diffpo.train.fit import fit
from diffpo.train.run import FitConfig, open_run

OBJECTIVE = DenoisingPreference(Sigmoid(500.0), space=OutputSpace())
BASES = {
    "sd3": (sd3, SD3(length=16)),
    "flux": (flux, Flux(length=16)),
    "klein": (klein, Flux2Klein(length=24, layers=(0, 1, 2))),
    "flux2": (flux2, Flux2(length=256, layers=(0, 1, 2))),
    "chroma": (chroma, Chroma(length=16)),
    "qwen_image": (qwen_image, QwenImage(length=24)),
    "z_image": (z_image, ZImage(length=24)),
    "sana": (sana, Sana(length=24)),
    "pixart": (pixart, PixArtSigma(length=24)),
}
# Of outputs of random networks; a tiny one has few weights to average errors over.
ERRORS: dict[Kind, float] = {"nf4": 0.2, "llm_int8": 0.05, "int8": 0.02}
ABSENT = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
CASES = [(name, "nf4") for name in BASES] + [("sd3", "llm_int8"), ("flux", "llm_int8")]
CASES += [pytest.param(name, "int8", marks=ABSENT) for name in BASES]
LAYERS = {"nf4": bnb.nn.Linear4bit, "llm_int8": bnb.nn.Linear8bitLt, "int8": nn.Linear}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("quantized")
    pair_folder(root / "pairs", n=4)
    return root


@pytest.fixture(autouse=True)
def _any_cpu(monkeypatch):
    """bitsandbytes (0.50) has a kernel for CPUs that multiply bf16, which takes no layers as small as these."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def _bitsandbytes_on_a_cpu(monkeypatch):
    monkeypatch.setattr(quantize, "require_gpu", lambda kind: None)
    for kind in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(kind, "validate_environment", lambda self, *args, **kwargs: None)
        monkeypatch.setattr(kind, "update_device_map", lambda self, device_map: {"": "cpu"})


def base_of(root: Path, name: str, **settings) -> StableDiffusion:
    make, family = BASES[name]
    if not (root / name).exists():
        make().save_pretrained(root / name)
    return StableDiffusion(str(root / name), family=family, adapter=LoRA(rank=2), **settings)


def data(root: Path) -> PairData:
    return PairData(PairFolder(str(root / "pairs")), framing=Framing(64, flip=False), workers=0)


def predict(model: LoadedStableDiffusion, root: Path, network: nn.Module) -> torch.Tensor:
    """What a network says of the first pairs."""
    batch, _ = model.first(data(root).open(0), 2)
    x = batch.latents
    with torch.no_grad():
        return replace(model.denoiser, unet=network).out(x, torch.tensor([300, 700]), batch.cond)


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


def train(model: LoadedStableDiffusion, root: Path, out: Path) -> None:
    config = FitConfig(steps=2, batch_size=2, per_device_batch_size=2, save_every=None, log_every=9)
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=3e-2)  # noqa: E731
    pairs, run = data(root).open(0), open_run(config, out)
    fit(OBJECTIVE, model.unet, model.reference(), pairs, model.prepare, optimizer, run)


@pytest.mark.usefixtures("_bitsandbytes_on_a_cpu")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_lora_on_a_quantized_base(name, kind, root, tmp_path):
    config = base_of(root, name, quantize=kind)
    model, plain = config.load(), replace(config, quantize=None).load()
    base = predict(plain, root, plain.unet)
    few = predict(model, root, model.unet)
    assert 0 < relative(few, base) < ERRORS[kind]

    train(model, root, tmp_path / "run")
    trained = predict(model, root, model.unet)
    assert relative(trained, few) > 0.001
    with model.config.adapter.off(model.unet):
        torch.testing.assert_close(predict(model, root, model.unet), few, rtol=0, atol=0)

    model.save(tmp_path / "lora")
    tuned = load_tuned(replace(config, quantize=None), tmp_path / "lora")
    plain_trained = predict(plain, root, tuned.transformer)
    assert not any(isinstance(layer, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt) for layer in tuned.transformer.modules())
    assert relative(plain_trained - base, trained - few) < 0.5  # the same update, of another base


@pytest.mark.usefixtures("_bitsandbytes_on_a_cpu")
@pytest.mark.parametrize(("name", "kind"), [*((name, "nf4") for name in BASES), ("flux", "llm_int8")])
def test_layers_of_blocks_are_quantized_and_no_others(name, kind, root):
    config = replace(base_of(root, name), adapter=LoRA(rank=2, targets=["to_q"]))
    plain, model = load_pipeline(config), replace(config, quantize=kind).load()
    layers = {layer.replace(".base_layer", ""): found for layer, found in find_linear(model.unet)}
    in_blocks, others = quantized_layers(plain.transformer), list_kept(plain.transformer)
    assert in_blocks
    assert {type(layers[layer]) for layer in in_blocks} == {LAYERS[kind]}
    assert {type(layers[layer]) for layer in others} == {nn.Linear}
    weights, own = dict(model.unet.named_parameters()), dict(plain.transformer.named_parameters())
    for weight in own.keys() - {f"{layer}.weight" for layer in in_blocks}:
        if weight in weights:  # but for those of layers with a LoRA
            torch.testing.assert_close(weights[weight].data.float(), own[weight].data, rtol=0, atol=0)


OF_TEXTS = [("flux", "nf4"), ("sana", "nf4"), ("qwen_image", "nf4"), ("z_image", "llm_int8"), ("sd3", "llm_int8")]
OF_TEXTS += [pytest.param(name, "int8", marks=ABSENT) for name in ("flux", "klein", "sana")]


@pytest.mark.parametrize(("name", "kind"), OF_TEXTS)
def test_large_text_encoders_in_few_bits(name, kind, root, tmp_path):
    """As transformers loads them, which takes bitsandbytes on a CPU, too; T5's `wo` is one of those it leaves then."""
    config = base_of(root, name, quantize_text_encoders=kind)
    plain, few = (replace(config, quantize_text_encoders=k).load(storage=torch.bfloat16) for k in (None, kind))
    [large] = config.family.large
    layers = quantized_layers(few.parts.components[large])
    kinds = {type(layer) for layer in layers.values()}
    assert LAYERS[kind] in kinds
    assert [type(m) for m in few.unet.modules()] == [type(m) for m in plain.unet.modules()]
    if kind != "int8":
        others = [
            encoder for encoder in few.encoder.conditioner.encoders if encoder is not few.parts.components[large]
        ]
        assert not any(isinstance(layer, LAYERS[kind]) for encoder in others for layer in encoder.modules())
    ours, theirs = (model.encoder.conditioner.states(["a red circle"])["prompt"] for model in (few, plain))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert 0 < relative(ours.float(), theirs.float()) < {"nf4": 0.4, "llm_int8": 0.1, "int8": 0.05}[kind]
    with torch.autocast("cpu", torch.bfloat16):
        told, wanted = (predict(model, root, model.unet) for model in (few, plain))
    assert 0 < relative(told, wanted) < 0.5
    if name == "sana":
        encode_pairs(config, data(root), tmp_path / "encoded")
        encoded = replace(data(root), source=EncodedPairs(str(tmp_path / "encoded")))
        require_encoded_for(config, encoded)
        with pytest.raises(Refusal, match=f"quantized_text_encoders was '{kind}' and is "):
            require_encoded_for(replace(config, quantize_text_encoders=None), encoded)


def test_text_encoders_that_cannot_be_quantized_are_refused_before_anything_is_loaded():
    with pytest.raises(Refusal, match="quantize_text_encoders is for large text encoders, .*; set it to null"):
        StableDiffusion("nowhere", quantize_text_encoders="int8")
    with pytest.raises(Refusal, match="base.quantize_text_encoders is 'int4'; set it to one of int8, fp8, nf4"):
        require_known("int4", QUANTIZE_TEXTS)


def test_rotary_frequencies_of_text_encoders_stay_whole(root):
    """As transformers loads them in half precision; 0.2 % of an angle is half a turn at token 1500."""
    encoder = base_of(root, "z_image").load(storage=torch.bfloat16).parts.text_encoder
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert encoder.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.usefixtures("_bitsandbytes_on_a_cpu")
def test_in_bf16_what_is_not_quantized_is_stored_as_without(root):
    config = base_of(root, "sd3", quantize="nf4")
    model, plain = config.load(storage=torch.bfloat16), replace(config, quantize=None).load(storage=torch.bfloat16)
    theirs = dict(plain.unet.named_parameters())
    few = {f"{name}.weight" for name in quantized_layers(plain.unet)}
    for name, weight in model.unet.named_parameters():
        if isinstance(weight, bnb.nn.Params4bit):
            assert weight.dtype == torch.uint8
            assert name in few
        elif not name.endswith("bias"):  # those of quantized layers stay fp32
            assert weight.dtype == theirs[name].dtype, name
    assert next(m for m in model.unet.modules() if isinstance(m, bnb.nn.Linear4bit)).compute_dtype == torch.bfloat16


@pytest.mark.usefixtures("_bitsandbytes_on_a_cpu")
def test_a_base_that_is_not_whole_or_quantized_already(root, tmp_path):
    config = base_of(root, "pixart", quantize="nf4")
    pipeline = load_pipeline(config)
    pipeline.transformer.transformer_blocks[0].attn1.to_q.weight.data[0, 0] = float("nan")
    pipeline.save_pretrained(tmp_path / "broken")
    with pytest.raises(Refusal, match="broken: transformer_blocks.0.attn1.to_q.weight is not finite"):
        replace(config, path=str(tmp_path / "broken")).load()
    folder = tmp_path / "few"
    load_pipeline(config).save_pretrained(folder)
    settings = json.loads((folder / "transformer" / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "transformer" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(Refusal, match="it is quantized already; name one whose weights are not"):
        replace(config, path=str(folder)).load()


def test_what_cannot_be_quantized_is_refused_before_anything_is_loaded():
    nowhere = {"path": "nowhere", "family": SD3()}
    with pytest.raises(Refusal, match="Quantized weights cannot be trained; set base.adapter, .* or base.quantize to"):
        StableDiffusion(**nowhere, quantize="int8")
    with pytest.raises(Refusal, match="base.quantize is 'int4'; set it to one of int8, fp8, nf4, llm_int8, or to"):
        require_known("int4")
    for family in (None, SDXL()):
        with pytest.raises(Refusal, match="base.quantize is for transformers: .*; set it to null, or base.family"):
            StableDiffusion("nowhere", family=family, adapter=LoRA(), quantize="int8")


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("fp8", "torchao"), ("nf4", "bitsandbytes")])
def test_without_the_package_the_extra_is_named(kind, package, monkeypatch):
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    config = StableDiffusion("nowhere", family=SD3(), adapter=LoRA(), quantize=kind)
    with pytest.raises(
        Refusal, match=rf"{kind} needs {package}, which is not installed; pip install 'diffpo\[quantize"
    ):
        config.load()


def test_bitsandbytes_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refusal, match="llm_int8 needs a GPU: .*; set it to int8 or null"):
        StableDiffusion("nowhere", family=SD3(), adapter=LoRA(), quantize="llm_int8").load()


def test_torchao_is_told_apart_the_last_layer_and_layers_of_its_name_in_blocks(monkeypatch):
    told: list[list[str]] = []
    monkeypatch.setattr(quantize, "find_spec", lambda name: name)
    monkeypatch.setitem(quantize.CONFIGS, "int8", lambda left_out, *_: told.append(left_out))
    network = flux().transformer
    Quantizing("int8").config(network)
    (left_out,) = told
    assert "proj_out.weight" in left_out
    names = [name for name, _ in find_linear(network)]
    skipped = {name for name in names if any(f"{w}." in f"{name}.weight" or w == f"{name}.weight" for w in left_out)}
    assert "single_transformer_blocks.0.proj_out" in quantized_layers(network)
    assert skipped == set(list_kept(network))


def test_cards_and_remembered_answers_tell_a_quantized_reference_from_a_plain_one(root):
    plain = StableDiffusion("nowhere", family=SD3(), adapter=LoRA())
    few = replace(plain, quantize="nf4")
    assert "It was quantized (nf4) in training, as policy and reference" in describe_path(few, OBJECTIVE)
    assert "quantized" not in describe_path(plain, OBJECTIVE)
    asked = [identify_answers(OBJECTIVE, base, data(root), 0, torch.float32)["network"] for base in (plain, few)]
    assert asked[0] != asked[1]
