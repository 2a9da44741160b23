"""What a base or a run of a family cannot be is told in one line, before a step is made."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import pair_folder
from tiny_families import flux, klein, sd3, z_image

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.data.sampler import Visit
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import encode_pairs
from diffpo.diffusion.encode.fingerprint import require_encoded_for
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.families.common import flow_path
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.families.flux2_klein import Flux2Klein
from diffpo.diffusion.families.qwen_image import QwenImage
from diffpo.diffusion.families.sana import Sana
from diffpo.diffusion.families.sd3 import SD3
from diffpo.diffusion.families.z_image import ZImage
from diffpo.diffusion.model.conditioning import Conditioner
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.diffusion.users.branch import UserBranch

TOO_LARGE = r"places for pictures of up to 256 pixels a side, these have {}; lower data.framing.resolution"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    sd3(with_t5=False).save_pretrained(root / "base")
    flux().save_pretrained(root / "flux")
    pair_folder(root / "pairs", n=2)
    return root


def base(root: Path, **settings) -> StableDiffusion:
    return StableDiffusion(str(root / "base"), family=SD3(length=1), **settings)


def data(root: Path, side: int = 64) -> PairData:
    return PairData(PairFolder(str(root / "pairs")), framing=Framing(side, flip=False), workers=0)


def test_pictures_beyond_a_table_of_places(root):
    model = base(root).load()
    with pytest.raises(Refusal, match=TOO_LARGE.format(272)):
        model.first(data(root, 272).open(0), 1)
    with pytest.raises(Refusal, match=TOO_LARGE.format(512)):
        generate_pictures(model.pipeline(), ["two"], [0], steps=1, side=512)


def test_sides_that_a_pipeline_does_not_draw(root):
    with pytest.raises(Refusal, match="SD3 draws sides that are multiples of 16, not 72"):
        generate_pictures(load_pipeline(base(root)), ["two"], [0], steps=1, side=72)


def test_blocks_that_diffusers_does_not_name(root):
    with pytest.raises(Refusal, match="names no blocks of a SD3Transformer2DModel to compile; set base"):
        base(root, compile=True).load()


@pytest.mark.parametrize("where", ["path", "unet"])
def test_a_single_file_of_a_transformer(root, where):
    file = str(root / "base" / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(Refusal, match=f"{file} is a single file, .*; name a folder of a StableDiffusion3Pipeline"):
        StableDiffusion(**{"path": str(root / "base"), where: file}, family=SD3()).load()


def test_a_lora_that_was_trained_with_t5_on_a_base_without(root, tmp_path, caplog):
    sd3().save_pretrained(tmp_path / "whole")
    StableDiffusion(str(tmp_path / "whole"), family=SD3(), adapter=LoRA(rank=2)).load().save(tmp_path / "lora")
    ComparedModel("same", str(tmp_path / "whole"), lora=str(tmp_path / "lora"), family=SD3()).load()
    warm = WarmLoRA(str(tmp_path / "lora"))
    StableDiffusion(str(tmp_path / "whole"), family=SD3(), adapter=warm).load(encodes=False, draws=False)
    assert not caplog.messages
    told = f"{tmp_path / 'lora'} was trained with text_encoder_3, which {{}} lacks, .*; name a base with it"
    ComparedModel("other", str(root / "base"), lora=str(tmp_path / "lora"), family=SD3()).load()
    assert re.search(told.format("this base"), caplog.messages[-1])
    base(root, adapter=warm).load()
    assert re.search(told.format(root / "base"), caplog.messages[-1])
    assert len(caplog.messages) == 2


def test_pictures_of_several_shapes_in_a_batch(root, tmp_path):
    encode_pairs(base(root), data(root), tmp_path / "encoded", encode="pictures")
    pairs = PairData(EncodedPairs(str(tmp_path / "encoded")), framing=Framing(64, flip=False)).open(0)
    one = pairs[Visit(0, 0)]
    view = one.view._replace(mean=one.view.mean[..., :4], std=one.view.std[..., :4])
    with pytest.raises(
        Refusal, match="A batch holds latents of 4 x 8 x 4 and 4 x 8 x 8, .*; set fit.per_device_batch"
    ):
        pairs.reader.collate([one, replace(one, view=view)])


def test_users(root):
    with pytest.raises(Refusal, match="UserBranch is for UNets of .*, and this network is a SD3.*; set base.adapter"):
        base(root, adapter=UserBranch(2, 8)).load()


def test_layers_that_a_network_lacks(root):
    with pytest.raises(Refusal, match="SD3Transformer2DModel has no layer 'to_z'; name others in base"):
        base(root, adapter=LoRA(targets=["to_z"])).load()


@pytest.mark.parametrize(("family", "most"), [(SD3, 512), (Flux, 512), (QwenImage, 1024)])
def test_lengths_that_a_pipeline_does_not_read(family, most):
    assert family(length=most).length == most
    with pytest.raises(Refusal, match=f"length of {family.__name__} must be at most {most}, .* got {most + 1}"):
        family(length=most + 1)
    with pytest.raises(Refusal, match="length of Sana must be at least 1, got 0"):
        Sana(length=0)


@pytest.mark.parametrize("guidance", [-1.0, float("nan")])
def test_guidance_that_is_none(guidance):
    with pytest.raises(Refusal, match=f"guidance of Flux must be a number from 0, got {guidance}"):
        Flux(guidance=guidance)


def test_layers_and_lengths_that_a_chat_model_lacks():
    conditioner = Conditioner(Flux2Klein(layers=(1, 2, 3), length=64), klein())
    conditioner.states(["a" * 54, "a" * 55])  # of the template there are ten tokens, one of which the prompt has, too
    assert conditioner.truncated == 1
    with pytest.raises(Refusal, match=r"Flux2Klein reads layers \(9, 18, 27\) of a text encoder, and this one has 3"):
        Conditioner(Flux2Klein(), klein()).states(["two"])
    with pytest.raises(Refusal, match="A length of 10 tokens leaves prompts none beside the 10 of a template"):
        Conditioner(ZImage(length=10), z_image()).states(["two"])


def test_a_shift_by_tokens_through_one_point():
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=4096)
    with pytest.raises(Refusal, match="4096 as base_image_seq_len and as max_image_seq_len, .*; set one in"):
        flow_path(theirs)


def test_pairs_that_were_encoded_for_another_length_guidance_or_family(root, tmp_path):
    def asked(folder: str, family) -> StableDiffusion:
        return StableDiffusion(str(root / folder), family=family)

    encode_pairs(asked("flux", Flux(length=16)), data(root), tmp_path / "encoded")
    encoded = PairData(EncodedPairs(str(tmp_path / "encoded")))
    require_encoded_for(asked("flux", Flux(length=16)), encoded)
    wrong = [("flux", Flux(length=32)), ("flux", Flux(length=16, guidance=3.5)), ("base", SD3(length=16))]
    for folder, family in wrong:
        with pytest.raises(
            Refusal, match=r"family was 'Flux\(length=16, guidance=1.0\)' and is .*; encode the pairs anew"
        ):
            require_encoded_for(asked(folder, family), encoded)
    encode_pairs(asked("flux", Flux(length=16)), data(root), tmp_path / "pictures", encode="pictures")
    pictures = PairData(EncodedPairs(str(tmp_path / "pictures")))
    require_encoded_for(asked("flux", Flux(length=32, guidance=3.5)), pictures)  # which latents do not depend on
    with pytest.raises(Refusal, match="family was 'Flux' and is 'SD3'; encode the pairs anew"):
        require_encoded_for(asked("base", SD3()), pictures)
