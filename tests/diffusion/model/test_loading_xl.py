"""A tiny SDXL, trained, saved, loaded by plain diffusers and sampled."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from tiny import drawn, pair_folder, picture, saved_xl
from tiny_runs import adamw

from diffpo.data.layouts import PairFolder
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.model.loading import StableDiffusion, load_tuned
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.diffusion.objective.checks import require_prediction
from diffpo.diffusion.objective.noising import Among, ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid
from diffpo.train.fit import fit
from diffpo.train.run import FitConfig, open_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An SDXL, and pairs of which one picture is larger than the other and not square."""
    root = tmp_path_factory.mktemp("xl")
    saved_xl(root / "base")
    pair_folder(root / "pairs")
    picture(size=(96, 64), seed=99).save(root / "pairs" / "rejected" / "0.png")
    return root


def pairs(root, **framing):
    framing = Framing(**{"resolution": 32, "flip": False} | framing)
    return PairData(PairFolder(str(root / "pairs")), framing=framing, caption_dropout=0.0, workers=0).open()


def trained(root, output_dir, objective=None, base=None, **changed):
    """Three steps, and the model as it is then."""
    settings = {"steps": 3, "batch_size": 2, "per_device_batch_size": 2, "save_every": None} | changed
    run = open_run(FitConfig(**settings), output_dir)
    model = StableDiffusion(str(root / "base"), **base or {}).load(run.accelerator.device)
    data = pairs(root)
    require_prediction(model.denoiser, *model.first(data))
    objective = objective or DenoisingPreference(Sigmoid(2000.0))
    frozen = model.reference() if objective.requires.reference else None
    fit(objective, model.unet, frozen, data, model.prepare, adamw(1e-2), run)
    model.save(output_dir)
    return model


def test_a_tuned_unet_draws_the_same_picture_in_plain_diffusers(root, tmp_path):
    model = trained(root, tmp_path)
    plain = StableDiffusionXLPipeline.from_pretrained(root / "base")
    untuned = drawn(plain)
    plain.unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert np.array_equal(drawn(plain), drawn(model.pipeline()))
    assert np.array_equal(drawn(load_tuned(model.config, tmp_path)), drawn(plain))
    assert not np.array_equal(drawn(plain), untuned)


@pytest.mark.parametrize("objective", [DenoisingPreference(Sigmoid(2000.0)), SFT()], ids=["DPO", "SFT"])
def test_a_lora_draws_the_same_picture_in_plain_diffusers(root, tmp_path, objective):
    model = trained(root, tmp_path, objective, {"adapter": LoRA(rank=2, alpha=5.0)})
    plain = StableDiffusionXLPipeline.from_pretrained(root / "base")
    untuned = drawn(plain)
    plain.load_lora_weights(tmp_path)
    assert np.array_equal(drawn(plain), drawn(model.pipeline()))
    assert not np.array_equal(drawn(plain), untuned)


def test_a_lora_can_be_trained_further(root, tmp_path):
    first = trained(root, tmp_path / "first", base={"adapter": LoRA(rank=2)})
    warm = StableDiffusion(str(root / "base"), adapter=WarmLoRA(str(tmp_path / "first"))).load()
    np.testing.assert_allclose(drawn(warm.pipeline()).astype(int), drawn(first.pipeline()).astype(int), atol=1)


def test_each_picture_has_time_ids_of_its_own(root):
    """Original height and width, crop corner after resizing to 32, target size; the others are 40 x 32."""
    model, data = StableDiffusion(str(root / "base")).load(), pairs(root)
    batch, _ = model.first(data, 2)
    chosen, rejected = batch.cond.picture["time_ids"]
    assert chosen.tolist() == [[32, 40, 0, 4, 32, 32]] * 2
    assert rejected.tolist() == [[64, 96, 0, 8, 32, 32], [32, 40, 0, 4, 32, 32]]


def test_time_ids_and_pooled_states_reach_the_network(root):
    model = StableDiffusion(str(root / "base")).load()
    batch, _ = model.first(pairs(root), 2)
    t = torch.tensor([500, 500])
    with torch.no_grad():
        whole = model.denoiser.eps(batch.latents, t, batch.cond)
        for kind, name in (("states", "pooled"), ("picture", "time_ids")):
            told = getattr(batch.cond, kind)
            changed = replace(batch.cond, **{kind: told | {name: told[name] + 50.0}})
            assert not torch.allclose(model.denoiser.eps(batch.latents, t, changed), whole)


def test_half_precision_text_states_under_autocast_give_log_2_at_the_start(root):
    model = StableDiffusion(str(root / "base")).load(storage=torch.bfloat16)
    batch, draws = model.first(pairs(root), 2)
    assert batch.cond.states["pooled"].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        step = DenoisingPreference()(model.denoiser, model.reference(), batch, draws)
    torch.testing.assert_close(step.loss.item(), np.log(2), rtol=0, atol=1e-6)


def test_a_turbo_model_is_trained_at_its_own_times_on_zero_terminal_snr(root):
    base = StableDiffusion(str(root / "base"), scheduler={"rescale_betas_zero_snr": True})
    model = base.load()
    batch, draws = model.first(pairs(root), 4)
    noised = ForwardNoise(Among([249, 499, 749]))(model.denoiser, None, batch, draws)
    assert set(noised.t.tolist()) <= {249, 499, 749}
    assert model.denoiser.a[-1] < 1e-4


def test_the_same_run_twice_gives_the_same_bits(root, tmp_path):
    one, two = (trained(root, tmp_path / name) for name in ("one", "two"))
    assert all(torch.equal(p, q) for p, q in zip(one.unet.parameters(), two.unet.parameters(), strict=True))
