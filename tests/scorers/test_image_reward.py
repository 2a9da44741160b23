import json
from pathlib import Path

import pytest
import torch
from golden.image_reward.make import CASES, TEXT, VISION, VOCABULARY, digest, drawn, shown
from golden.published import recorded
from golden.seeded import picture

from diffpo.core.refusal import Refusal
from diffpo.scorers import image_reward
from diffpo.scorers.image_reward import UNUSED, BlipReward, ImageReward, published_name

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/image_reward/golden.json").read_text())
SHAPES = {name: tuple(map(int, shape.split())) for name, shape in GOLDEN["shapes"].items()}
PROMPTS = [case[0] for case in CASES]
PICTURES = [shown(*case[1:]) for case in CASES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the original read: weights, and a vocabulary."""
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(drawn(SHAPES), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture
def scorer(folder, monkeypatch):
    width, layers, heads = VISION.values()
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    depth = {"num_hidden_layers": layers, "num_attention_heads": heads}
    monkeypatch.setattr(image_reward, "VISION", image_reward.VISION | sizes | depth)
    monkeypatch.setattr(image_reward, "TEXT", image_reward.TEXT | TEXT | {"encoder_hidden_size": width})
    return ImageReward(str(folder), tokenizer=str(folder), device="cpu")


def changed(scorer, tmp_path, change) -> ImageReward:
    tensors = drawn(SHAPES)
    change(tensors)
    torch.save(tensors, tmp_path / "changed.pt")
    return ImageReward(str(tmp_path / "changed.pt"), tokenizer=scorer.tokenizer, device="cpu")


def test_scores_are_those_of_the_original_package(scorer):
    torch.testing.assert_close(scorer(PROMPTS, PICTURES), torch.tensor(GOLDEN["scores"]), atol=1e-5, rtol=0)


def test_the_published_files_names_and_shapes_are_those_expected():
    with torch.device("meta"):
        expected = {published_name(name): tuple(tensor.shape) for name, tensor in BlipReward().state_dict().items()}
    unused = {name: SHAPES[name][:-1] + (1024,) if "vision" in name else SHAPES[name] for name in UNUSED}
    unused |= {"blip.vision_proj.bias": (256,), "blip.text_proj.weight": (256, 768)}
    unused |= {"blip.text_encoder.embeddings.position_ids": (1, 512)}
    assert digest(expected | unused) == GOLDEN["published"]


def test_batches_do_not_change_scores(scorer, folder):
    pairwise = ImageReward(str(folder), tokenizer=str(folder), device="cpu", batch_size=2)
    torch.testing.assert_close(pairwise(PROMPTS, PICTURES), scorer(PROMPTS, PICTURES), atol=1e-6, rtol=0)


def test_a_prompt_is_read_up_to_35_tokens(scorer):
    """Two of them are [CLS] and [SEP]."""
    images = [PICTURES[0]] * 3
    full, longer, shorter = scorer(["cat " * 33, "cat " * 33 + "dog", "cat " * 32 + "dog"], images)
    assert full == longer
    assert full != shorter


def test_half_precision_rounds_the_towers_but_not_the_reward(folder, scorer):
    half = ImageReward.from_pretrained(str(folder), dtype=torch.bfloat16, device="cpu", tokenizer=str(folder))
    scores = half(PROMPTS, PICTURES)
    assert not torch.equal(scores, scores.bfloat16().float())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN["scores"]), atol=0.1, rtol=0)
    assert half.version.endswith("bfloat16")


def test_a_missing_weight_is_named(scorer, tmp_path):
    name = "blip.visual_encoder.blocks.1.attn.qkv.weight"
    with pytest.raises(Refusal, match=f"the first is {name}, which has shape none"):
        changed(scorer, tmp_path, lambda tensors: tensors.pop(name)).check([])


def test_a_weight_too_many_is_named(scorer, tmp_path):
    with pytest.raises(Refusal, match="blocks.2.norm1.bias, which has shape .* and should have none"):
        changed(
            scorer, tmp_path, lambda t: t.update({"blip.visual_encoder.blocks.2.norm1.bias": torch.ones(32)})
        ).check([])


def test_a_weight_of_another_size_is_named(scorer, tmp_path):
    with pytest.raises(
        Refusal, match=r"mlp.layers.0.weight, which has shape \(1024, 5\) and should have \(1024, 24\)"
    ):
        changed(scorer, tmp_path, lambda t: t.update({"mlp.layers.0.weight": torch.ones(1024, 5)})).check([])


def test_a_vocabulary_of_another_size_is_refused(scorer, folder, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:-3]) + "\n")
    with pytest.raises(Refusal, match=f"{len(VOCABULARY) - 3} words, ImageReward was trained with {len(VOCABULARY)};"):
        ImageReward(str(folder), tokenizer=str(tmp_path), device="cpu").check([])


def test_an_absent_vocabulary_is_refused(scorer, folder, tmp_path):
    """Of which transformers makes an empty one."""
    with pytest.raises(Refusal, match="does not hold BERT's vocabulary that can be read: there is no vocab.txt in it"):
        ImageReward(str(folder), tokenizer=str(tmp_path), device="cpu").check([])
    with pytest.raises(Refusal, match="Cannot load BERT's vocabulary from 'nobody/bert'"):
        ImageReward(str(folder), tokenizer="nobody/bert", device="cpu").check([])


def test_code_in_a_file_is_not_run(scorer, tmp_path):
    torch.save(Path, tmp_path / "ImageReward.pt")
    with pytest.raises(
        Refusal,
        match="does not hold ImageReward's weights that can be read: it is damaged, or holds more than tensors",
    ):
        ImageReward(str(tmp_path), tokenizer=scorer.tokenizer, device="cpu").check([])


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(Refusal, match="does not hold ImageReward's weights.*there is no ImageReward.pt in it"):
        ImageReward(str(tmp_path), device="cpu").check([])


@pytest.mark.weights
def test_published_weights_give_the_recorded_scores():
    prompts = ["a painting of the red cats", "a photograph of a dog"]
    first, second = ImageReward(device="cpu")(prompts, [picture(512, 512, 1), picture(640, 400, 2)]).tolist()
    recorded("image_reward", {"painting": first, "photograph": second})


def test_prompts_of_more_than_35_tokens_are_counted(scorer):
    assert scorer.count_cut(["cat " * 33, "cat " * 34, "cat", "cat " * 33 + "dog"]) == 2
