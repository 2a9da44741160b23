import pytest
import torch
from tiny_text import VOCABULARY, language_model

from diffpo.core.draws import Draws
from diffpo.text.evaluation.sampling import gumbel, sample_tokens

PROMPTS = [[1, 5, 9, 11, 7], [1, 8], [1, 20, 21]]
PAD, END = 0, 2


@pytest.fixture(scope="module")
def network():
    return language_model(seed=3).eval()


def noise(rows, tokens: int = 12, scale: float = 1.0):
    draws = Draws(0, (0,) * len(rows), tuple(rows))
    return (scale * gumbel(draws, f"token {t}", VOCABULARY) for t in range(tokens))


def test_gumbel_noise_samples_the_softmax():
    draws = Draws(0, (0,) * 4000, tuple(range(4000)))
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    picked = (logits + gumbel(draws, "tokens", 3)).argmax(-1)
    assert torch.bincount(picked).div(4000).tolist() == pytest.approx([0.1, 0.6, 0.3], abs=0.03)


def test_an_answer_does_not_depend_on_its_batch(network):
    together = sample_tokens(network, PROMPTS, noise(range(3)), PAD, END)
    for row, prompt in enumerate(PROMPTS):
        (alone,) = sample_tokens(network, [prompt], noise([row]), PAD, END)
        assert torch.equal(alone, together[row])


def test_each_token_is_the_likeliest_under_logits_plus_noise_after_all_before_it(network):
    (answer,) = sample_tokens(network, PROMPTS[:1], noise([0]), PAD, END)
    ids = torch.tensor([[*PROMPTS[0], *answer.tolist()]])
    with torch.no_grad():
        logits = network(ids).logits[0, len(PROMPTS[0]) - 1 : -1]
    steps = torch.cat(list(noise([0], tokens=len(answer))))
    assert torch.equal((logits + steps).argmax(-1), answer)


def test_an_answer_ends_with_the_first_end_or_is_cut(network):
    def chosen(*tokens: int):
        return [torch.nn.functional.one_hot(torch.tensor([token, 9]), VOCABULARY) * 1e6 for token in tokens]

    ended, cut = sample_tokens(network, PROMPTS[:2], chosen(7, END, 8, END, 7), PAD, END)
    assert (ended.tolist(), cut.tolist()) == ([7, END], [9] * 5)


def test_it_stops_when_all_have_ended(network):
    asked = []

    def ends():
        for step in range(5):
            asked.append(step)
            yield torch.nn.functional.one_hot(torch.tensor([END]), VOCABULARY) * 1e6

    (answer,) = sample_tokens(network, PROMPTS[:1], ends(), PAD, END)
    assert (answer.tolist(), asked) == ([END], [0])
