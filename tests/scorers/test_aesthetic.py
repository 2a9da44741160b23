import json
from pathlib import Path

import pytest
import torch
from golden.aesthetic import make
from golden.published import recorded
from golden.seeded import picture
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffpo.core.refusal import Refusal
from diffpo.scorers.aesthetic import Aesthetic
from diffpo.scorers.clip_parts import LinearStack

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/aesthetic/golden.json").read_text())
SHAPES = {
    part: {name: tuple(map(int, shape.split())) for name, shape in GOLDEN[part].items()} for part in ("tower", "head")
}
PICTURES = [make.shown(*case) for case in make.CASES]
PROMPTS = ["a cat"] * len(PICTURES)
RENAMED = {
    "visual.proj": "visual_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".ln_": ".layer_norm",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def converted(openai: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's picture encoder by the names of transformers."""
    found = {}
    for name, tensor in openai.items():
        if ".attn.in_proj_" in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                block, kind = name.split(".attn.in_proj_")
                found[f"{block}.self_attn.{letter}_proj.{kind}"] = part
        else:
            found[name] = tensor.T if name == "visual.proj" else tensor
    for theirs, ours in RENAMED.items():
        found = {name.replace(theirs, ours): tensor.contiguous() for name, tensor in found.items()}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aesthetic")
    config = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=make.PIXELS,
        patch_size=make.PATCH,
        projection_dim=make.EMBEDDING,
    )
    tower = CLIPVisionModelWithProjection(config)
    tower.load_state_dict(converted(make.tower(SHAPES["tower"])))
    tower.save_pretrained(folder / "tower")
    torch.save(make.head(SHAPES["head"]), folder / "head.pth")
    return folder


def scorer(folder, **options) -> Aesthetic:
    options = {"path": str(folder / "head.pth"), "tower": str(folder / "tower"), "device": "cpu"} | options
    return Aesthetic(**options)


def test_scores_are_those_of_the_original_code(folder):
    scores = scorer(folder)(PROMPTS, PICTURES)
    torch.testing.assert_close(scores, torch.tensor(GOLDEN["scores"]), atol=1e-5, rtol=0)


def test_prompts_are_ignored(folder):
    first, second = scorer(folder)(["a cat", "a dog"], [PICTURES[0]] * 2)
    assert first == second


def test_half_precision_is_that_of_the_tower_alone(folder):
    half = scorer(folder, dtype="bfloat16")
    assert half.network.dtype == torch.bfloat16
    assert {weight.dtype for weight in half.head.parameters()} == {torch.float32}
    assert "length 1 in bfloat16" in half.version


def test_without_a_dtype_the_tower_is_in_half_precision_on_cuda_only(folder):
    assert scorer(folder).precision == torch.float32
    assert scorer(folder, device="cuda").precision == torch.float16
    assert scorer(folder, device="cuda", dtype="float32").precision == torch.float32


def test_a_folder_is_read_by_the_files_name(folder):
    by_name = scorer(folder, path=str(folder), file="head.pth")
    assert torch.equal(by_name(PROMPTS, PICTURES), scorer(folder)(PROMPTS, PICTURES))
    assert by_name.model_id == scorer(folder).model_id == f"{folder}/head.pth on {folder}/tower"


def test_weights_of_another_tower_are_refused(folder):
    other = LinearStack(7).state_dict()
    torch.save({f"layers.{name}": tensor for name, tensor in other.items()}, folder / "other.pth")
    with pytest.raises(Refusal, match=r"layers.0.weight, which has shape \(1024, 7\) and should have \(1024, 24\)"):
        scorer(folder, path=str(folder / "other.pth")).check([])


def test_the_predictor_with_activations_is_refused(folder):
    """The same repository has one with ReLUs, by which its layers are counted otherwise."""
    renumbered = {"0": "0", "2": "3", "4": "6", "6": "9", "7": "11"}
    relu = {tuple(name.split(".")): tensor for name, tensor in make.head(SHAPES["head"]).items()}
    torch.save(
        {f"layers.{renumbered[n]}.{kind}": tensor for (_, n, kind), tensor in relu.items()}, folder / "relu.pth"
    )
    with pytest.raises(Refusal, match="14 of its weights do not fit, the first is layers.11.bias"):
        scorer(folder, path=str(folder / "relu.pth")).check([])


def test_what_is_no_clip_model_is_refused(folder, tmp_path):
    with pytest.raises(Refusal, match="does not hold a CLIP model"):
        scorer(folder, tower=str(tmp_path)).check([])


@pytest.mark.weights
def test_published_weights_give_the_recorded_scores():
    first, second = Aesthetic(device="cpu")(["", ""], [picture(512, 512, 1), picture(640, 400, 2)]).tolist()
    recorded("aesthetic", {"square": first, "wide": second})
