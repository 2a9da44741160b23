from types import SimpleNamespace

import pytest
import torch
from tiny import picture
from tiny_embedders import LAYERS, onevision
from tiny_speakers import TEMPLATE as IN_ORDER
from tiny_speakers import llama

from diffpo.annotators.embedders.chat import ChatEmbedder, LastStep
from diffpo.annotators.embedders.embedder import Shown
from diffpo.core.refusal import Refusal


def chunk(first: int, pairs: int = 1) -> list[Shown]:
    seeds = [first + 2 * n for n in range(pairs)]
    return [Shown("a red circle", picture(seed=seed), picture(seed=seed + 1, size=(20, 40))) for seed in seeds]


CHUNKS = [chunk(0), chunk(10, 2), chunk(20, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return onevision(tmp_path_factory.mktemp("onevision"), scale=5.0)


def embedder(folder, **options) -> ChatEmbedder:
    return ChatEmbedder(folder, **{"max_tokens": 6, "instruction": "on the"} | options)


def layers(*values: float, tokens: int = 1) -> SimpleNamespace:
    """What a network of one layer and width 1 would return: states of each text, ten times that after the layer."""
    states = torch.zeros(len(values), tokens, 1)
    states[:, -1, 0] = torch.tensor(values)
    return SimpleNamespace(hidden_states=(states, 10 * states))


def test_each_text_keeps_the_step_that_predicts_its_own_end():
    """Two texts, of which the first ends (token 7) with the second step; each step is seen, then a token written."""
    last = LastStep(2, torch.tensor([7]))
    for seen, written in (((1.0, 2.0), (5, 5)), ((3.0, 4.0), (7, 5)), ((9.0, 6.0), (0, 5)), ((9.0, 8.0), (0, 7))):
        last.see(torch.nn.Identity(), (), layers(*seen, tokens=3 if written == (5, 5) else 1))
        assert not last(torch.tensor(written)[:, None], None).any()
    assert last.states[:, :, 0].tolist() == [[3.0, 30.0], [8.0, 80.0]]


def test_a_text_that_is_cut_off_keeps_its_last_step():
    last = LastStep(1, torch.tensor([], dtype=torch.long))
    for seen in (1.0, 2.0):
        last.see(torch.nn.Identity(), (), layers(seen))
        last(torch.tensor([[7]]), None)
    assert last.states[0, :, 0].tolist() == [2.0, 20.0]


def test_states_are_those_of_reading_all_but_the_last_token(folder):
    made = embedder(folder)
    inputs = made.inputs(CHUNKS[1:2])
    tokens = made.written(inputs, [0], pad_token_id=0)
    texts = dict(inputs) | {"input_ids": tokens[:, :-1], "attention_mask": torch.ones_like(tokens[:, :-1])}
    with torch.no_grad():
        states = made.network(**texts, output_hidden_states=True).hidden_states
    expected = torch.stack([layer[0, -1] for layer in states])
    found = made(CHUNKS[1:2]).tokens[0]
    assert found.shape == made.shape == (LAYERS + 1, 16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def written(made: ChatEmbedder, chunk: list[Shown]) -> list[int]:
    inputs = made.inputs([chunk])
    return made.written(inputs, [0], pad_token_id=0)[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut off", "ending at different steps"])
def test_a_batch_is_its_texts_one_by_one(folder, is_cut):
    made, alone = embedder(folder), embedder(folder, batch_size=1)
    made.network.generation_config.eos_token_id = None
    said = [written(made, chunk) for chunk in CHUNKS]
    lengths = {end: {text.index(end) if end in text else 6 for text in said} for text in said for end in text}
    ends = None if is_cut else [max(lengths, key=lambda end: len(lengths[end]))]
    assert is_cut or len(lengths[ends[0]]) > 1
    for each in (made, alone):
        each.network.generation_config.eos_token_id = ends
    together, apart = made(CHUNKS), alone(CHUNKS)
    assert apart.profiles == together.profiles
    torch.testing.assert_close(apart.tokens, together.tokens, rtol=1e-4, atol=1e-4)


def test_the_same_pairs_give_the_same_embedding(folder):
    first, again = embedder(folder)(CHUNKS[:1]), embedder(folder)(CHUNKS[:1])
    assert torch.equal(first.tokens, again.tokens)
    assert first.profiles == again.profiles
    assert not torch.equal(embedder(folder, instruction="left")(CHUNKS[:1]).tokens, first.tokens)


def test_pictures_stand_between_the_words_whatever_the_template_does(folder, tmp_path):
    in_order = onevision(tmp_path, IN_ORDER)
    assert embedder(folder).marker.strip() == embedder(in_order).marker.strip() == "<image>"
    for path in (folder, in_order):
        [text] = embedder(path).inputs(CHUNKS[1:2])["input_ids"].tolist()
        pictures = [token == embedder(path).network.config.image_token_id for token in text]
        runs = sum(one and not before for one, before in zip(pictures, [False, *pictures], strict=False))
        assert runs == 4
        assert pictures.index(True) > 5


def test_a_caption_cannot_smuggle_pictures_in(folder):
    smuggled = [one._replace(caption="a <image>red circle</s>") for one in CHUNKS[0]]
    assert embedder(folder).question(smuggled) == embedder(folder).question(CHUNKS[0])


def test_what_embeddings_depend_on():
    about = {"embedder": "ChatEmbedder", "model_id": "a/b", "revision": None, "max_tokens": 1024, "precision": None}
    assert about.items() <= ChatEmbedder("a/b").identity.items()
    with pytest.raises(TypeError, match="temperature"):
        ChatEmbedder("a/b", temperature=0.7)


def test_a_model_that_cannot_see_is_told(folder, tmp_path):
    embedder(folder).check()
    with pytest.raises(Refusal, match="is a llama, ChatEmbedder needs an image-text-to-text model; name another"):
        ChatEmbedder(str(llama(tmp_path / "llama"))).check()
    blind = onevision(tmp_path / "blind", "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    with pytest.raises(Refusal, match="has no place for pictures; name another model"):
        embedder(blind).check()
