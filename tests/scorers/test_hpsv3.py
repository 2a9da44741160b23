import json
from pathlib import Path

import pytest
import torch
from golden.hpsv3 import files
from golden.published import recorded
from golden.seeded import picture
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.scorers.hpsv3 import HPSv3

GOLDEN = json.loads(Path(files.__file__).with_name("golden.json").read_text())
SHAPES = {name: [int(length) for length in shape.split()] for name, shape in GOLDEN["shapes"].items()}
PROMPTS = [prompt for prompt, *_ in files.CASES]


def expected(dtype: str, some: slice) -> torch.Tensor:
    return torch.tensor(GOLDEN[dtype])[some, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny Qwen2-VL, and HPSv3's file of weights for it."""
    folder = tmp_path_factory.mktemp("hpsv3")
    files.write_base(folder)
    save_file(files.drawn(SHAPES), folder / "HPSv3.safetensors")
    return folder


@pytest.fixture
def changed(folder, tmp_path):
    """A scorer on a file with other weights, or (None) without them."""

    def change(changes: dict[str, torch.Tensor | None]) -> HPSv3:
        weights = files.drawn(SHAPES) | changes
        file = tmp_path / "changed.safetensors"
        save_file({name: weight for name, weight in weights.items() if weight is not None}, file)
        return HPSv3(str(file), base=str(folder), device="cpu")

    return change


@pytest.mark.parametrize("some", [slice(0, 3), slice(3, 6), slice(6, 9)], ids=["wordy", "sizes", "modes"])
def test_scores_are_those_of_the_original(folder, some):
    """Whose batches were others, so that texts were padded to other lengths."""
    scorer = HPSv3.from_pretrained(str(folder), "cpu", torch.float32, base=str(folder))
    found = scorer(PROMPTS[some], files.pictures()[some])
    torch.testing.assert_close(found, expected("float32", some), atol=1e-5, rtol=0)


def test_by_default_scores_are_in_bfloat16_as_published(folder):
    """Closer than they would be with rotary frequencies in float32, or all in float32: 0.02 off both."""
    some = slice(7, 9)
    found = HPSv3(str(folder), base=str(folder), device="cpu")(PROMPTS[some], files.pictures()[some])
    torch.testing.assert_close(found, expected("bfloat16", some), atol=5e-3, rtol=0)
    assert ((found - expected("float32", some)).abs() > 1.5e-2).all()


def test_the_head_keeps_its_float32_weights(folder):
    network = HPSv3(str(folder), base=str(folder), device="cpu").network
    assert torch.equal(network.head[0].weight, files.drawn(SHAPES)["rm_head.0.weight"])
    assert network.model.language_model.norm.weight.dtype == torch.bfloat16


def test_braces_and_tokens_in_a_prompt_are_taken_literally(folder):
    """Only what ends the question is read off, not what looks like it."""
    scorer = HPSv3(str(folder), base=str(folder), device="cpu", dtype="float32")
    first, second = scorer(["{picture} <|Reward|> {0}", "a cat"], [picture(60, 40, 1), picture(60, 40, 1)]).tolist()
    (alone,) = scorer(["a cat"], [picture(60, 40, 1)]).tolist()
    assert second == pytest.approx(alone, abs=1e-6)
    assert first != pytest.approx(alone, abs=1e-3)


def test_a_bare_qwen_is_refused(changed):
    absent = {name: None for name in SHAPES if name.startswith("rm_head.")}
    with pytest.raises(Refusal, match=r"not hold HPSv3: 6 of its weights do not fit, the first is rm_head.0.bias, w"):
        changed(absent).check([])


def test_a_layer_too_many_is_named_as_in_the_file(changed):
    with pytest.raises(Refusal, match=r"first is model.layers.2.mlp.up_proj.weight, .* should have none"):
        changed({"model.layers.2.mlp.up_proj.weight": torch.zeros(48, 32)}).check([])


def test_a_tokenizer_that_does_not_go_with_the_weights_is_refused(changed):
    rows, width = SHAPES["model.embed_tokens.weight"]
    with pytest.raises(Refusal, match=rf"embed_tokens.weight, .* \({rows + 3}, 32\) and should have \({rows}, 32"):
        changed({"model.embed_tokens.weight": torch.zeros(rows + 3, width)}).check([])


def test_a_base_without_tokenizer_is_named(folder, tmp_path):
    """For which transformers makes an empty one."""
    (tmp_path / "config.json").write_text(json.dumps(files.CONFIG))
    with pytest.raises(Refusal, match=r"has no tokenizer that knows <\|image_pad\|>; set base to a copy of Qwen/"):
        HPSv3(str(folder), base=str(tmp_path), device="cpu").check([])


def test_the_language_models_own_head_is_not_needed(changed):
    changed({"lm_head.weight": None}).check([])


def test_a_broken_download_is_refused_in_one_line(folder, tmp_path):
    (tmp_path / "HPSv3.safetensors").write_bytes(b"<html>")
    with pytest.raises(Refusal, match=r"\A\S+ does not hold HPSv3's weights .* it is damaged, .*; fetch it again\Z"):
        HPSv3(str(tmp_path), base=str(folder), device="cpu").check([])


def test_what_cannot_be_reached_is_named(folder, tmp_path):
    with pytest.raises(Refusal, match="Cannot load HPSv3's weights from 'nobody/nothing'"):
        HPSv3("nobody/nothing", base=str(folder), device="cpu").check([])
    with pytest.raises(
        Refusal, match="does not hold HPSv3's weights that can be read: there is no HPSv3.safetensors in it"
    ):
        HPSv3(str(tmp_path), base=str(folder), device="cpu").check([])
    with pytest.raises(Refusal, match="Cannot load the configuration of a Qwen2-VL from 'nobody/qwen'"):
        HPSv3(str(folder), base="nobody/qwen", device="cpu").check([])


def test_base_and_precision_are_in_the_identity():
    assert HPSv3(revision="v1").identity == {
        "scorer": "hpsv3",
        "model_id": "MizzenAI/HPSv3@v1 on Qwen/Qwen2-VL-7B-Instruct",
        "version": "mean; pictures of about 200704 pixels; one-dimensional positions; bfloat16, head in float32",
        "raw": False,
    }
    assert HPSv3(dtype="float32").version.endswith("positions; float32, head in float32")


@pytest.mark.weights
def test_published_weights_give_the_recorded_scores():
    prompts = ["a painting of the red cats", "a photograph of a dog"]
    first, second = HPSv3()(prompts, [picture(512, 512, 1), picture(640, 400, 2)]).tolist()
    recorded("hpsv3", {"painting": first, "photograph": second}, tolerance=0.05)  # bfloat16 differs between machines
