import pytest
import torch
from tiny import picture
from tiny_embedders import pooled

from diffpo.annotators.embedders.embedder import Shown
from diffpo.annotators.embedders.pooled import PooledDifference
from diffpo.core.refusal import Refusal
from diffpo.scorers.clip_score import CLIPScore

RED, BLUE, NOISE = picture("red"), picture("blue"), picture(seed=1)


@pytest.fixture(scope="module")
def embedder():
    made = pooled()
    made.check()
    return made


def test_tokens_are_the_means_of_difference_liked_and_disliked(embedder):
    red, blue, noise = embedder.clip.embed_pictures([RED, BLUE, NOISE])
    found = embedder([[Shown("a", RED, BLUE), Shown("b", NOISE, BLUE)], [Shown("a", BLUE, NOISE)]])
    assert found.profiles == ["", ""]
    both, other = (red + noise) / 2, torch.stack([blue - noise, blue, noise])
    torch.testing.assert_close(found.tokens, torch.stack([torch.stack([both - blue, both, blue]), other]))
    assert found.tokens.shape[1:] == embedder.shape == (3, 64)


def test_opposite_preferences_are_opposite_and_indifference_is_zero_in_the_first_token(embedder):
    chunks = [[Shown("a", RED, BLUE)], [Shown("a", BLUE, RED)], [Shown("a", RED, RED)]]
    (forth, *liked), (back, *turned), (nobody, *same) = embedder(chunks).tokens
    assert torch.equal(forth, -back)
    assert torch.equal(torch.stack(liked), torch.stack(turned[::-1]))
    assert not nobody.any()
    assert torch.equal(*same)


def test_captions_change_nothing(embedder):
    tokens = embedder([[Shown(caption, RED, BLUE)] for caption in ("a", "b")]).tokens
    assert torch.equal(*tokens)


def test_what_embeddings_depend_on(embedder):
    about = {"embedder": "PooledDifference", "model_id": "assets/tiny-clip", "revision": None, "precision": "float32"}
    assert about.items() <= embedder.identity.items()


def test_weights_that_are_not_there_are_told():
    with pytest.raises(Refusal, match="Cannot load a CLIP model from 'no/such'"):
        PooledDifference(CLIPScore("no/such")).check()
