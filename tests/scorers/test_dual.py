import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from golden.clip_score import make
from golden.pickscore.files import VIT_L_14, write_model, write_processor
from PIL import Image
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.scorers import dual
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.dual import DualEncoder, normalize_embeddings
from diffpo.scorers.pickscore import PickScore

SHAPES = json.loads(Path(make.__file__).with_name("golden.json").read_text())["shapes"]
RED, BLUE = (Image.new("RGB", (2, 2), color) for color in ("red", "blue"))


@dataclass(frozen=True, eq=False)
class Colors(DualEncoder):
    """Compares the color of a picture with the one that the prompt names; notes what it is asked."""

    path: str = "nowhere"
    asked: list[str] = field(default_factory=list)

    def load(self):
        return nn.Identity()

    @property
    def name(self):
        return "colors"

    @property
    def version(self):
        return "1"

    def embed_prompts(self, prompts):
        self.asked.extend(prompts)
        return torch.tensor([[1.0, 0.0, 0.0] if prompt == "red" else [0.6, 0.0, 0.8] for prompt in prompts])

    def embed_pictures(self, pictures):
        return torch.tensor([[value / 255 for value in picture.getpixel((0, 0))] for picture in pictures])


def saved(folder: Path, shapes: dict[str, list[int]]) -> str:
    write_model(folder, shapes)
    write_processor(folder, VIT_L_14)
    return str(folder)


def test_each_picture_is_compared_with_its_own_prompt():
    scores = Colors(batch_size=2)(["red", "purple", "red", "purple"], [RED, RED, BLUE, BLUE])
    torch.testing.assert_close(scores, torch.tensor([1, 0.6, 0, 0.8]))


def test_a_prompt_is_encoded_once_in_all_batches_and_calls():
    scorer = Colors(batch_size=2)
    for _ in range(2):
        scorer(["red", "purple", "purple", "red", "red"], [RED] * 5)
    assert sorted(scorer.asked) == ["purple", "red"]


def test_no_pictures_have_no_scores():
    assert Colors()([], []).tolist() == []


def test_half_precision_embeddings_are_compared_in_fp32():
    unit = normalize_embeddings(torch.tensor([[3.0, 4.0]], dtype=torch.float16))
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8]]))


def test_a_weight_that_is_absent_is_named(tmp_path):
    shapes = {name: shape for name, shape in SHAPES.items() if name != "visual_projection.weight"}
    with pytest.raises(
        Refusal, match="hold a CLIP model: 1 of its .* first is visual_projection.weight, .* shape none"
    ):
        CLIPScore(saved(tmp_path, shapes), device="cpu").check([])


def test_a_weight_of_another_shape_is_named(tmp_path):
    shapes = SHAPES | {"text_projection.weight": [8, 16]}
    with pytest.raises(Refusal, match="text_projection.weight"):
        CLIPScore(saved(tmp_path, shapes), device="cpu").check([])


def test_the_empty_tokenizer_that_transformers_makes_up_is_refused(tmp_path):
    write_model(tmp_path, SHAPES)
    with pytest.raises(Refusal, match="has a tokenizer of 2 tokens, but .* was trained with 534; set `processor`"):
        CLIPScore(str(tmp_path), device="cpu").check([])


@pytest.mark.parametrize(("processor", "revision"), [(None, "v3"), ("another/repository", None)])
def test_a_revision_is_that_of_the_weights_and_of_what_comes_with_them(monkeypatch, processor, revision):
    asked = []
    monkeypatch.setattr(dual.AutoImageProcessor, "from_pretrained", lambda *path, **options: asked.append(options))
    _ = CLIPScore("some/model", revision="v3", processor=processor).prepare
    assert asked == [{"revision": revision, "backend": "pil", "trust_remote_code": False}]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_leaves_the_scale_of_pickscore_exact(tmp_path, dtype):
    path = saved(tmp_path, SHAPES)
    half = PickScore(path, device="cpu", dtype=dtype)
    assert half.network.text_projection.weight.dtype == getattr(torch, dtype)
    assert half.scale() == PickScore(path, device="cpu").scale()
