from dataclasses import replace

import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.lab.rewrites.oracle import RewriteOracle, kept, read_rewrite, style, utility
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES, plain
from diffpo.lab.shapes.scenes import Attributes

LIKED = Attributes("red", "circle", "white", "center", "large")
ASKED = Attributes("red", "circle")


@pytest.mark.parametrize("family", [*TRAINING_FAMILIES, EVALUATION_FAMILY])
def test_a_full_caption_of_any_family_is_read(family):
    assert read_rewrite(family(LIKED)) == LIKED
    assert read_rewrite(family(replace(LIKED, size=None))) == replace(LIKED, size=None)


@pytest.mark.parametrize("left_out", ["color", "shape", "background", "position"])
def test_a_caption_that_leaves_an_attribute_out_is_none(left_out):
    assert read_rewrite(plain(replace(LIKED, **{left_out: None}))) is None


@pytest.mark.parametrize(
    "rewrite",
    [
        "",
        "red circle center white",
        "a large red circle in the center, white background large",
        "a large red red circle in the center, white background",
        "a large red circle in the center, white background and",
    ],
)
def test_words_that_make_no_caption_lose_every_comparison(rewrite):
    asked = "a red circle:"
    worst = "a small blue square on the left, brown background"
    bad, poor = RewriteOracle()([asked, asked], [rewrite, worst])
    assert bad == -1
    assert poor == 0


def test_the_share_of_kept_attributes_is_of_those_asked_for():
    asked = Attributes("red", "circle", size="large")
    assert kept(asked, LIKED) == 1
    assert kept(asked, replace(LIKED, color="blue")) == pytest.approx(2 / 3)
    assert kept(asked, replace(LIKED, size=None)) == pytest.approx(2 / 3)
    assert kept(asked, replace(LIKED, background="navy")) == 1


def test_style_by_hand():
    """Size 1, 0.5, 0; position 1, 0.5, 0; background 1, 0.5, 0: their mean."""
    assert style(ASKED, LIKED) == 1
    assert style(ASKED, replace(LIKED, size=None, position="top", background="gray")) == 0.5
    assert style(ASKED, replace(LIKED, size="small", position="left", background="brown")) == 0
    assert style(ASKED, replace(LIKED, size="small")) == pytest.approx(2 / 3)


def test_the_background_should_stand_in_contrast():
    for color, liked, disliked in (("red", "white", "black"), ("yellow", "black", "white")):
        shown = replace(LIKED, color=color)
        assert style(ASKED, replace(shown, background=liked)) == 1
        assert style(ASKED, replace(shown, background=disliked)) == pytest.approx(2 / 3)


def test_what_was_asked_for_is_no_matter_of_taste():
    asked = replace(ASKED, size="small")
    assert style(asked, LIKED) == style(asked, replace(LIKED, size="small")) == 1
    assert utility(asked, LIKED) == pytest.approx(1 + 2 / 3)
    assert utility(asked, replace(LIKED, size="small")) == 2


def test_the_scorer_says_what_the_functions_say():
    prompts = ["a red circle on white:"] * 3
    rewrites = [plain(LIKED), plain(replace(LIKED, color="blue", size="small")), "a red circle"]
    oracle = RewriteOracle()
    assert oracle(prompts, rewrites).tolist() == pytest.approx([2, 2 / 3 + 0.5, -1])
    aspects = oracle.aspects(prompts, rewrites)
    assert aspects["attributes"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert aspects["style"].tolist() == pytest.approx([1, 0.5, 0])
    assert torch.equal(aspects["clean"], torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))


def test_prompts_that_leave_nothing_open_are_refused():
    RewriteOracle().check(["a red circle:", "a small circle at the top:"])
    with pytest.raises(Refusal, match="leaves none of background, position, size open; shorten it"):
        RewriteOracle().check(["a small red circle at the top on white:"])
    with pytest.raises(Refusal, match="is not a caption of the tiny world"):
        RewriteOracle().check(["an astronaut:"])
