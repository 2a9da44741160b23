from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.scorers import learned
from diffpo.scorers.learned import Learned, stack_pictures


@dataclass(frozen=True, eq=False)
class Brightness(Learned):
    """The mean of a picture's pixels, by a network that could do no less."""

    path: str = "nowhere"

    @property
    def name(self) -> str:
        return "brightness"

    @property
    def version(self) -> str:
        return "1"

    def load(self) -> nn.Module:
        if self.path == "missing":
            raise Refusal("there are no such weights")
        return nn.Linear(1, 1).requires_grad_(True)

    def score(self, prompts, pictures):
        assert len(prompts) == len(pictures) <= self.batch_size
        first = stack_pictures(
            lambda picture: torch.tensor(picture.getpixel((0, 0)), dtype=torch.float32).view(3, 1, 1), pictures
        )
        return first.mean(dim=(1, 2, 3))


GRAYS = [Image.new("L", (4, 4), n) for n in range(7)]


def test_scores_come_in_the_order_of_the_pictures_whatever_the_batch():
    for batch_size in (1, 3, 7, 100):
        scorer = Brightness(batch_size=batch_size)
        assert scorer([""] * 7, GRAYS).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_nothing_is_no_score():
    assert Brightness()([], []).shape == (0,)


def test_there_is_one_prompt_for_each_picture():
    with pytest.raises(Refusal, match="1 prompts and 7 candidates"):
        Brightness()([""], GRAYS)


def test_weights_are_loaded_at_first_use_and_once(monkeypatch):
    loads = []
    load = Brightness.load
    monkeypatch.setattr(Brightness, "load", lambda self: loads.append(1) or load(self))
    scorer = Brightness.from_pretrained("somewhere")
    assert not loads
    scorer.check([])
    assert scorer.network is scorer.network
    assert loads == [1]


def test_check_raises_what_loading_raises():
    scorer = Brightness.from_pretrained("missing")
    with pytest.raises(Refusal, match="no such weights"):
        scorer.check([])


def test_weights_are_frozen_and_in_the_type_that_was_asked_for():
    scorer = Brightness.from_pretrained("x", "cpu", torch.bfloat16)
    assert {(p.dtype, p.requires_grad) for p in scorer.network.parameters()} == {(torch.bfloat16, False)}
    assert not scorer.network.training


def test_the_model_id_has_the_revision():
    assert Brightness("a/b").model_id == "a/b"
    assert Brightness.from_pretrained("a/b", revision="v2").model_id == "a/b@v2"


def test_on_another_device_nothing_is_loaded_yet():
    first = Brightness("x", batch_size=3)
    first.check([])
    moved = first.on("cpu")
    assert (moved.path, moved.device, moved.batch_size) == ("x", "cpu", 3)
    assert "network" in vars(first)
    assert "network" not in vars(moved)


class Words:
    """A tokenizer: a token per word, and one for begin and end."""

    def __call__(self, prompts, truncation, verbose):
        assert not truncation
        return SimpleNamespace(input_ids=[[0, *range(len(prompt.split())), 0] for prompt in prompts])


def test_prompts_that_are_longer_are_counted_in_chunks(monkeypatch):
    monkeypatch.setattr(learned, "CHUNK", 3)
    prompts = [" ".join(["w"] * n) for n in range(10)]
    assert [learned.count_longer(Words(), prompts, words) for words in (2, 5, 11)] == [9, 6, 0]
    assert learned.count_longer(Words(), [], 2) == 0


def test_who_reads_no_prompts_cuts_none():
    assert Brightness("").count_cut(["w " * 1000]) == 0
