"""Answers sampled with one keyed uniform number per token."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny_templates import CHATML, templated
from tiny_text import VOCABULARY, language_model, saved_language_model
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.text.data.tokenizing import Tokenizing
from diffpo.text.model.loading import CausalLM
from diffpo.text.model.sampling import TextSampler, count_cut, decode_answers, find_ends, invert_distribution

PROMPTS = ["is it the one", "a", "say xy, the xy. the end", "what"]
IDS = [[1, 5, 9, 11, 7], [1, 8], [1, 20, 21]]
PAD, END = 0, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return CausalLM(saved_language_model(tmp_path_factory.mktemp("model"), seed=3)).load()


def draws(n: int, first: int = 0, epoch: int = 0) -> Draws:
    return Draws(7, (epoch,) * n, tuple(range(first, first + n)))


def texts(sampled) -> list[list[str]]:
    return [[one.content for one in of] for of in sampled]


def uniforms(rows: range, k: int = 1, tokens: int = 12) -> torch.Tensor:
    each = draws(len(rows), rows[0])
    return torch.stack([each.uniforms(f"tokens/{number}", tokens) for number in range(k)], dim=1)


def test_inversion_takes_the_token_in_whose_share_the_number_lies():
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(5, 4)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert invert_distribution(logits, uniform).tolist() == [0, 0, 2, 3, 3]


def test_a_token_without_probability_is_never_taken_though_it_stands_last():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert invert_distribution(logits, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [1]


def test_tokens_rarer_than_fp32_can_tell_are_taken_as_often_as_they_are_likely():
    logits = torch.full((1, 2**16), -30.0)
    logits[0, 0] = 0.0
    share = logits.double().softmax(-1)
    wanted = (share.cumsum(-1)[0, 40_000] - share[0, 40_000] / 2)[None]
    assert invert_distribution(logits, wanted).item() == pytest.approx(40_000, abs=100)


def test_answers_follow_the_model(model):
    sampler = TextSampler(max_tokens=1, batch_size=4000)
    (ids, _), n = sampler.read(model, "a the"), 4000
    with torch.no_grad():
        share = model.network.eval()(torch.tensor([list(ids)])).logits[0, -1].softmax(-1)
    each = draws(n).uniforms("tokens/0", 1)[None]
    found = decode_answers(model.network, [ids], each, sampler.choose(), PAD, [END])
    counted = torch.bincount(torch.tensor(found)[:, 0], minlength=VOCABULARY) / n
    assert (counted - share).abs().max() < 4 * (share.max() / n).sqrt()


@pytest.mark.parametrize(("batch_size", "k"), [(1, 3), (2, 3), (3, 3), (64, 3), (64, 5)])
def test_an_answer_depends_neither_on_its_batch_nor_on_k(model, batch_size, k):
    sampler = TextSampler(max_tokens=12, batch_size=batch_size)
    alone = [texts(sampler(model, [prompt], 3, draws(1, row))) for row, prompt in enumerate(PROMPTS)]
    together = texts(sampler(model, PROMPTS, k, draws(4)))
    assert [[alone[row][number][0] for row in range(4)] for number in range(3)] == together[:3]
    assert len({*together[0], *together[1]}) > 4


def test_another_round_seed_row_or_candidate_has_other_answers(model):
    sampler = TextSampler(max_tokens=12)
    found = [texts(sampler(model, PROMPTS, 2, each)) for each in (draws(4), draws(4, epoch=1), draws(4, first=4))]
    found.append(texts(sampler(model, PROMPTS, 2, replace(draws(4), seed=8))))
    assert len({tuple(of[number]) for of, number in product(found, range(2))}) == 8


def test_the_same_call_gives_the_same_and_more_tokens_go_on_where_fewer_stopped(model):
    long, short = (TextSampler(max_tokens=most)(model, PROMPTS, 2, draws(4)) for most in (24, 6))
    assert texts(long) == texts(TextSampler(max_tokens=24)(model, PROMPTS, 2, draws(4)))
    for whole, cut in zip(sum(long, []), sum(short, []), strict=True):
        assert whole.content.startswith(cut.content)
        assert cut.about["ended"] or whole.about["tokens"] >= 6 == cut.about["tokens"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_the_cache_and_the_batch_change_nothing_whatever_the_architecture(family):
    """Against the network read anew for every token of every answer, alone and without padding."""
    small = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": PAD}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = {
            "llama": lambda: language_model(seed=3),
            "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **small)),
            "opt": lambda: OPTForCausalLM(
                OPTConfig(
                    hidden_size=16,
                    ffn_dim=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    word_embed_proj_dim=16,
                    **small,
                )
            ),
        }[family]().eval()
    each = uniforms(range(3), k=2)
    found = decode_answers(network, IDS, each, invert_distribution, PAD, [END])
    for (prompt, number), answer in zip(product(range(3), range(2)), found, strict=True):
        for t, token in enumerate(answer):
            with torch.no_grad():
                logits = network(torch.tensor([[*IDS[prompt], *answer[:t]]])).logits[:, -1]
            assert invert_distribution(logits, each[prompt, number, t : t + 1]).item() == token


def test_an_answer_ends_with_the_first_end_or_is_cut():
    said = iter([[7, 9], [END, 9], [9], [8], [9]])
    found = decode_answers(
        language_model(), IDS[:2], torch.zeros(2, 1, 5), lambda *_: torch.tensor(next(said)), PAD, [END, 3]
    )
    assert found == [[7, END], [9, 9, 9, 8, 9]]


def test_it_stops_when_all_have_ended():
    asked = []

    def choose(logits, uniform):
        asked.append(len(logits))
        return torch.tensor([END] * len(logits))

    assert decode_answers(language_model(), IDS, torch.zeros(3, 2, 9), choose, PAD, [END]) == [[END]] * 6
    assert asked == [6]


def test_temperature_top_k_and_top_p_restrict_what_is_taken():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    last = torch.tensor([1 - 2**-53], dtype=torch.float64)
    found = {
        name: sampler.choose()(logits, last).item()
        for name, sampler in {
            "plain": TextSampler(),
            "greedy": TextSampler(temperature=0.0),
            "two": TextSampler(top_k=2),
            "three quarters": TextSampler(top_p=0.75),
        }.items()
    }
    assert found == {"plain": 3, "greedy": 0, "two": 1, "three quarters": 2}
    # p^2 normalized: 16, 9, 4, 1 of 30
    hot = TextSampler(temperature=0.5).choose()
    at = [hot(logits, torch.tensor([x / 30], dtype=torch.float64)).item() for x in (15.9, 16.1, 24.9, 25.1, 29.1)]
    assert at == [0, 1, 1, 2, 3]


def test_what_is_cut_is_counted(model):
    sampler = TextSampler(max_tokens=4)
    long = "a" * 80
    found = sampler(model, ["a", long], 2, draws(2))
    assert count_cut(found)["prompts_cut"] == 1
    assert count_cut(found)["answers"] == 4
    assert count_cut(found)["answers_cut"] == sum(one.about["tokens"] == 4 for of in found for one in of) > 0
    ids, cut = sampler.read(model, long)
    assert (len(ids), ids[0], cut) == (60, 1, True)
    assert sampler.read(model, "a")[1] is False


def test_answers_that_leave_no_room_for_prompts_are_refused(model):
    with pytest.raises(Refusal, match="max_tokens 64 leave no room for a prompt in the 64 tokens"):
        TextSampler(max_tokens=64)(model, ["a"], 1, draws(1))


def test_conversations_are_asked_as_in_training(model):
    chat, sampler = [{"role": "user", "content": "hi"}], TextSampler(max_tokens=4)
    trained = model.tokenizing(chat, [{"role": "assistant", "content": "yes"}]).prompt
    assert sampler.read(model, chat)[0] == trained
    assert replace(sampler, as_chat=True).read(model, "hi")[0] == trained != sampler.read(model, "hi")[0]


def test_a_base_without_chat_template_answers_texts_and_refuses_conversations(tmp_path, model):
    bare = CausalLM(saved_language_model(tmp_path)).load()
    bare.tokenizing.tokenizer.chat_template = None
    assert texts(TextSampler(max_tokens=2)(bare, ["a"], 1, draws(1)))
    with pytest.raises(Refusal, match="no chat template; set base.chat_template"):
        TextSampler(max_tokens=2, as_chat=True)(bare, ["a"], 1, draws(1))


def test_an_answer_ends_where_a_turn_of_the_template_does():
    tokenizer, network = templated(CHATML), language_model()
    tokenizer.eos_token = "<s>"
    ends = {
        chats: tokenizer.convert_ids_to_tokens(find_ends(network, Tokenizing(tokenizer), chats))
        for chats in (False, True)
    }
    assert "<|im_end|>" in ends[True]
    assert "<|im_end|>" not in ends[False]
    network.generation_config.eos_token_id = [2, 5]
    assert {2, 5} <= {*find_ends(network, Tokenizing(tokenizer), chats=False)}


def test_sampling_leaves_the_network_as_it_was(model):
    model.network.train()
    TextSampler(max_tokens=2)(model, ["a"], 1, draws(1))
    assert model.network.training
    assert model.network(torch.tensor([[1, 5]])).logits.shape == (1, 2, VOCABULARY)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_p": 0.0}, "top_p lies in"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, said):
    with pytest.raises(Refusal, match=said):
        TextSampler(**wrong)


def test_what_only_changes_speed_is_no_part_of_the_identity():
    assert TextSampler(batch_size=1).identity == TextSampler(batch_size=9).identity != TextSampler(top_k=3).identity


def test_a_prompt_is_read_once_for_all_its_answers_and_only_the_next_tokens_have_logits(model):
    shapes, fed = [], []
    head = model.network.get_output_embeddings()
    hooks = [
        head.register_forward_hook(lambda _, given, out: shapes.append(tuple(out.shape))),
        model.network.get_input_embeddings().register_forward_hook(
            lambda _, given, out: fed.append(tuple(given[0].shape))
        ),
    ]
    TextSampler(max_tokens=4, batch_size=6)(model, PROMPTS, 3, draws(4))
    for hook in hooks:
        hook.remove()
    assert all(rows <= 6 and tokens == 1 for rows, tokens, _ in shapes)
    assert [rows for rows, tokens in fed if tokens > 1] == [2, 2]
