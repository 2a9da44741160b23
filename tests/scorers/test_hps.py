import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from accelerate import init_empty_weights
from golden.hps import make
from golden.published import recorded
from golden.seeded import picture, weights

from diffpo.core.refusal import Refusal
from diffpo.scorers import hps
from diffpo.scorers.hps import HPSv2, HPSv21

GOLDEN = json.loads(Path(make.__file__).with_name("golden.json").read_text())
PROMPTS = [prompt for prompt, *_ in make.CASES]
SCORERS = {"v2.0": HPSv2, "v2.1": HPSv21}


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """Have the scorers build a tiny network in place of ViT-H/14."""
    (tmp_path / "tiny-hps.json").write_text(json.dumps(make.ARCHITECTURE))
    open_clip.add_model_config(tmp_path / "tiny-hps.json")
    monkeypatch.setattr(hps.HPS, "architecture", "tiny-hps")
    return monkeypatch


def state(version: str) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in weights(GOLDEN["shapes"], make.VERSIONS[version]).items()}


def saved(folder: Path, version: str, name: str | None = None, **changes) -> Path:
    file = folder / (name or make.FILES[version])
    torch.save({"epoch": 1, "name": "hps", "state_dict": state(version) | changes}, file)
    return file


@pytest.mark.parametrize("version", SCORERS)
def test_scores_are_those_of_the_original(tmp_path, version):
    scorer = SCORERS[version](str(saved(tmp_path, version)), device="cpu", batch_size=4)
    torch.testing.assert_close(
        scorer(PROMPTS, make.pictures()), torch.tensor(GOLDEN["scores"][version]), atol=1e-5, rtol=0
    )


def test_the_weights_of_the_published_size_are_named_and_shaped_as_in_the_original():
    with init_empty_weights():
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    assert make.digest({name: list(value.shape) for name, value in model.state_dict().items()}) == GOLDEN["published"]


def test_autocast_scores_are_near_those_in_fp32_and_not_rounded_to_fp16(tmp_path, monkeypatch):
    monkeypatch.setattr(hps.HPS, "mixes", True)
    scores = HPSv2(str(saved(tmp_path, "v2.0")), device="cpu")(PROMPTS, make.pictures())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN["scores"]["v2.0"]), atol=2e-3, rtol=0)
    assert (scores != torch.tensor(GOLDEN["scores"]["v2.0"])).all()
    assert (scores.half().float() != scores).any()


@pytest.mark.parametrize("version", SCORERS)
def test_a_folder_with_the_files_of_both_releases_serves_both(tmp_path, version):
    for other in make.FILES:
        saved(tmp_path, other)
    alone = SCORERS[version](str(tmp_path / make.FILES[version]), device="cpu")
    together = SCORERS[version](str(tmp_path), device="cpu")
    assert torch.equal(together(PROMPTS, make.pictures()), alone(PROMPTS, make.pictures()))


@pytest.mark.parametrize(("version", "other"), [("v2.0", "v2.1"), ("v2.1", "v2.0")])
def test_the_file_of_the_other_release_is_refused_by_its_name(tmp_path, version, other):
    file = saved(tmp_path, other)
    with pytest.raises(Refusal, match=rf"is HPSv\S+ by its name, not HPSv\S+, .*; name {make.FILES[version]}"):
        SCORERS[version](str(file), device="cpu").check([])


def test_a_name_that_tells_nothing_is_taken_at_the_users_word(tmp_path):
    file = saved(tmp_path, "v2.0", "weights.pt")
    HPSv21(str(file), device="cpu").check([])


def test_a_shape_that_does_not_fit_is_named(tmp_path):
    file = saved(tmp_path, "v2.0", **{"visual.proj": torch.zeros(32, 8)})
    with pytest.raises(Refusal, match=r"1 of its .* visual.proj, which has shape \(32, 8\) and should have \(32, 16"):
        HPSv2(str(file), device="cpu").check([])


def test_a_deeper_network_is_refused(tmp_path):
    file = saved(tmp_path, "v2.0", **{"transformer.resblocks.2.ln_1.bias": torch.zeros(16)})
    with pytest.raises(Refusal, match=r"resblocks.2.ln_1.bias, which has shape \(16,\) and should have none"):
        HPSv2(str(file), device="cpu").check([])


def test_bare_weights_are_refused(tmp_path):
    torch.save(state("v2.0"), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(
        Refusal, match="does not hold a checkpoint of HPSv2: 62 of its weights do not fit, the first is ln_final.bias"
    ):
        HPSv2(str(tmp_path / "open_clip_pytorch_model.bin"), device="cpu").check([])


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 cut off"])
def test_a_broken_download_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "HPS_v2_compressed.pt"
    file.write_bytes(content)
    with pytest.raises(
        Refusal, match=r"\A\S+ does not hold the file HPS_v2_compressed.pt .*: it is damaged, .*; fetch it again\Z"
    ):
        HPSv2(str(file), device="cpu").check([])


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    file = tmp_path / "HPS_v2_compressed.pt"
    torch.save({"state_dict": make.pictures}, file)
    with pytest.raises(Refusal, match="holds more than tensors"):
        HPSv2(str(file), device="cpu").check([])


def test_a_hub_that_cannot_be_reached_is_named():
    with pytest.raises(Refusal, match="Cannot load the file HPS_v2.1_compressed.pt from 'nobody/nothing'"):
        HPSv21("nobody/nothing", device="cpu").check([])


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(Refusal, match=r"open_clip_torch; run pip install \"diffpo\[eval\]\""):
        HPSv2(str(saved(tmp_path, "v2.0")), device="cpu").check([])


def test_the_longest_side_fits_and_the_rest_is_black():
    black = (-hps.MEAN / hps.STD).flatten()
    pixels = hps.fit_picture(picture(448, 224, 1))
    assert pixels.shape == (3, 224, 224)
    assert (pixels[:, :56] == black[:, None, None]).all()
    assert (pixels[:, 168:] == black[:, None, None]).all()
    assert (pixels[:, 56:168] != black[:, None, None]).any(dim=-1).all()


def test_one_row_more_is_black_below_than_above_if_it_must():
    rows = (hps.fit_picture(picture(224, 221, 1)) == -hps.MEAN / hps.STD).all(dim=-1).all(dim=0)
    assert rows.nonzero().flatten().tolist() == [0, 222, 223]


def test_a_picture_of_the_right_size_is_only_normalized():
    image = picture(224, 224, 2)
    pixels = hps.fit_picture(image) * hps.STD + hps.MEAN
    assert pixels[:, 7, 9].mul(255).round().int().tolist() == list(image.getpixel((9, 7)))


def test_releases_and_precision_are_in_the_identity():
    two, later, half = HPSv2(device="cpu"), HPSv21(device="cpu"), HPSv21(device="cpu", dtype="float16")
    assert two.name == "hpsv2"
    assert later.name == "hpsv2.1"
    assert later.version == "v2.1; cosine; longest side 224 bicubic, no antialiasing, zero padding; float32"
    assert half.version.endswith("padding; float16")
    assert HPSv21(device="cuda").version.endswith("padding; float16 autocast")
    assert two.version != later.version


@pytest.mark.weights
def test_published_weights_give_the_recorded_scores(tiny):
    """Also the logit scales: the one number of a file that would tell the releases apart at a glance."""
    tiny.undo()
    found = {}
    for version, kind in SCORERS.items():
        scorer = kind(device="cpu")
        scores = scorer(PROMPTS, make.pictures()).tolist()
        found |= {f"{version} {number}": score for number, score in enumerate(scores)}
        found[f"{version} logit_scale"] = scorer.network.logit_scale.item()
    recorded("hps", found)


def test_prompts_that_are_cut_are_counted(tmp_path):
    scorer = HPSv2(str(saved(tmp_path, "v2.0")), device="cpu")
    room = scorer.tokenizer.context_length - 2
    prompts = ["cat " * n for n in (room - 1, room, room + 1, 3 * room)]
    assert scorer.count_cut(prompts) == 2
    whole, *cut = scorer([prompts[1], *prompts[2:]], [make.pictures()[0]] * 3)
    assert all(score == whole for score in cut)
