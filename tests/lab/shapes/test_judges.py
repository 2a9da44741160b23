import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tokenizer_of_captions

from diffpo.evaluation.scorer import Scorer
from diffpo.lab.shapes.captions import plain, read_caption
from diffpo.lab.shapes.judges import (
    agreement,
    faithfulness,
    picked,
    save_judge,
    train_clip,
    train_pickscore,
    untrained_clip,
)
from diffpo.lab.shapes.judging_pairs import Comparisons
from diffpo.lab.shapes.oracle import measure
from diffpo.lab.shapes.preferences import split_scenes
from diffpo.lab.shapes.scenes import Attributes, Scene, render
from diffpo.scorers.pickscore import PickScore

SMALL = {"width": 16, "layers": 1}
RED = Attributes("red", "circle", "white", "left")


class Vivid(Scorer):
    """Likes vivid pictures, whatever the prompt."""

    name = model_id = version = "vivid"

    def __call__(self, prompts, candidates):
        return torch.tensor([measure(picture).vividness for picture in candidates])


class Right(Vivid):
    """Counts the attributes that a picture shows."""

    def __call__(self, prompts, candidates):
        rights = [measure(c).right(read_caption(p)) for p, c in zip(prompts, candidates, strict=True)]
        return torch.tensor(rights)


def drawn(vividness: float, shown: Attributes = RED):
    return render(Scene(shown, (0.3, 0.5), 0.2, vividness))


def comparisons(utility: list[list[float]], prob: list[float]) -> Comparisons:
    """The first picture of each pair is the more vivid one."""
    pixels = np.stack([np.stack([np.asarray(drawn(v))] * len(prob)) for v in (0.9, 0.5)])
    return Comparisons([plain(RED)] * len(prob), pixels, np.array(utility), np.array(prob))


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_loss_of_equal_scores_is_log_two_for_any_label():
    assert picked(torch.zeros(2, 3), torch.tensor([1.0, 0.5, 0.0])).tolist() == pytest.approx([math.log(2)] * 3)


def test_loss_is_minus_the_log_sigmoid_of_the_winners_lead():
    score = torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    expected = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))]
    assert picked(score, torch.tensor([1.0, 0.0])).tolist() == pytest.approx(expected)


def test_a_tie_pulls_scores_together():
    score = torch.tensor([[3.0], [1.0]], requires_grad=True)
    picked(score, torch.tensor([0.5])).sum().backward()
    assert score.grad[0] > 0 > score.grad[1]


def test_small_gaps_and_ties_do_not_count():
    found = agreement(Vivid(), comparisons([[1.0, 0.0, 1.01, 1.0], [0.0, 1.0, 1.0, 0.5]], [1.0, 1.0, 0.0, 0.5]))
    assert (found.number, found.scorer, found.label) == (3, pytest.approx(2 / 3), 0.5)


def test_a_scorer_that_sees_each_attribute_is_faithful_and_one_that_sees_none_is_not():
    shown = [RED] * 40
    pictures = [drawn(0.9)] * 40
    seeing = faithfulness(Right(), shown, pictures, plain)
    assert seeing == {"background": 1, "color": 1, "position": 1, "shape": 1, "all": 1}
    assert faithfulness(Vivid(), shown, pictures, plain)["all"] == 0


def test_a_clip_depends_on_its_seed_alone():
    def clip(seed: int) -> torch.Tensor:
        torch.rand(3)
        return weights(train_clip(tokenizer_of_captions(), split_scenes().training, steps=1, batch=18, seed=seed))

    one, same, other = clip(0), clip(0), clip(1)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_fine_tuning_leaves_the_clip_alone_and_learns_its_labels():
    clip = untrained_clip(tokenizer_of_captions(), **SMALL)
    before = weights(clip)
    known = comparisons([[1.0] * 4, [0.0] * 4], [1.0] * 4)
    tuned = train_pickscore(clip, tokenizer_of_captions(), known, steps=10, batch=4, lr=3e-3)
    assert torch.equal(weights(clip), before)
    tokens = tokenizer_of_captions()([plain(RED)], return_tensors="pt")
    pixels = torch.from_numpy(known.pixels[:, 0]).permute(0, 3, 1, 2) / 127.5 - 1
    more, less = tuned(pixel_values=pixels, **tokens).logits_per_image
    assert more > less


def test_a_judge_scores_as_it_was_trained(tmp_path):
    """Through the files, in fp16, and through the image processor of the scorer."""
    clip, tokenizer = untrained_clip(tokenizer_of_captions(), **SMALL), tokenizer_of_captions()
    save_judge(clip, tokenizer, tmp_path)
    pictures = [drawn(v) for v in (0.5, 0.7, 0.9)]
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
    tokens = tokenizer([plain(RED)], padding="max_length", return_tensors="pt")
    expected = clip.eval()(pixel_values=pixels, **tokens).logits_per_image[:, 0]
    torch.testing.assert_close(PickScore(str(tmp_path))([plain(RED)] * 3, pictures), expected, atol=5e-3, rtol=0)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert clip.dtype == torch.float32
