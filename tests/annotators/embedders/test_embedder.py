import pytest
import torch
from huggingface_hub import constants
from tiny import picture
from tiny_embedders import Means

from diffpo.annotators.embedders.embedder import commit_of, embed_pairs
from diffpo.core.refusal import Refusal


def test_a_new_person_is_embedded_by_any_number_of_pairs():
    pairs = [("a", picture("white"), picture("black")), ("b", picture("black"), picture("white").convert("L"))]
    torch.testing.assert_close(embed_pairs(Means(), pairs[:1]), torch.full((2, 3), 255.0))
    torch.testing.assert_close(embed_pairs(Means(), pairs), torch.zeros(2, 3))


def test_nobody_is_embedded_without_pairs():
    with pytest.raises(Refusal, match=r"has no embedding; give one \(caption, liked, disliked\) or more"):
        embed_pairs(Means(), [])


def test_the_commit_is_the_one_that_the_hub_gave(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    (repository / "snapshots" / "c0ffee" / "config.json").write_text("{}")
    assert commit_of("a/b", None) == "c0ffee"
    assert commit_of("a/b", "v2") is None
    assert commit_of(str(tmp_path), None) is None
