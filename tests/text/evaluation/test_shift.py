import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_runs import together
from tiny_text import VOCABULARY, language_model, tokenizer
from tiny_text_runs import run_text, text_files, train_text

from diffpo.core.draws import Draws
from diffpo.core.references import Ema, FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.losses.reference_free import SimPO
from diffpo.text.data.pairs import FreshAnswers, HeldOutTexts, TextData
from diffpo.text.data.tokenizing import Tokenizing
from diffpo.text.evaluation.sampling import gumbel, sample_tokens
from diffpo.text.evaluation.shift import DistributionShift, batch_answers, sum_logps
from diffpo.text.model.loading import CausalLM
from diffpo.text.model.lora import TextLoRA
from diffpo.text.objective.preference import SequencePreference
from diffpo.train.state.best import KeepBest

FRESH = FreshAnswers(prompts=3, tokens=6, batch_size=2)
STANDING = partial(torch.optim.SGD, lr=0.0)
LOSSES = {"against a reference": SequencePreference(), "without reference": SequencePreference(loss=SimPO())}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return text_files(tmp_path_factory.mktemp("texts"))


def judging(fresh: FreshAnswers | None = FRESH, **changed) -> HeldOutTexts:
    return HeldOutTexts(share=0.4, every=2, pairs=4, fresh=fresh, **changed)


def logged(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["validation/shift"] for line in lines if "validation/shift" in line]


def held_out(world, max_length: int = 64):
    data = TextData(Columns(str(world / "pairs.parquet")), max_length=max_length, workers=0)
    return judging().held_out(data).open(0, Tokenizing(tokenizer()))


def measured(world, path, fresh: FreshAnswers = FRESH) -> float:
    """The shift of a saved model from the base."""
    network, base = (CausalLM(str(each)).load().network.eval() for each in (path, world / "base"))
    shift = DistributionShift.of(held_out(world), fresh)
    return shift(network, FrozenCopy(base))["shift"].item()


def test_it_is_the_mean_log_ratio_per_token_of_answers_that_the_policy_samples(world, tmp_path):
    run_text(world, tmp_path, validation=judging())
    policy, base = (CausalLM(str(path)).load().network.eval() for path in (tmp_path, world / "base"))
    ratios = []
    for number, prompt in enumerate(DistributionShift.of(held_out(world), FRESH).prompts):
        draws = Draws(0, (0,), (number,))
        noise = (gumbel(draws, f"token {t}", VOCABULARY) for t in range(6))
        (answer,) = sample_tokens(policy, [prompt], noise, 0, 2)
        ids = torch.tensor([[*prompt, *answer.tolist()]])
        with torch.no_grad():
            ours, theirs = (model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1] for model in (policy, base))
        ratios.append((ours - theirs).gather(1, answer[:, None]).mean().item())
    assert len(ratios) == 3
    assert logged(tmp_path)[-1] == pytest.approx(sum(ratios) / 3, abs=1e-6) != 0


@pytest.mark.parametrize("adapter", [None, TextLoRA(rank=2)], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("objective", LOSSES.values(), ids=LOSSES)
def test_it_is_0_where_policy_and_reference_are_one(world, tmp_path, adapter, objective):
    base = CausalLM(str(world / "base"), adapter=adapter)
    run_text(world, tmp_path, objective=objective, base=base, optimizer=STANDING, validation=judging())
    assert logged(tmp_path) == [0.0, 0.0]


@pytest.mark.parametrize("adapter", [None, TextLoRA(rank=2, dropout=0.5)], ids=["all weights", "LoRA"])
def test_training_is_the_same_with_and_without_it(world, tmp_path, adapter):
    base = CausalLM(str(world / "base"), adapter=adapter, gradient_checkpointing=True)
    torch.manual_seed(0)
    one = train_text(world, tmp_path / "a", base=base, validation=judging())
    torch.manual_seed(0)
    assert torch.equal(one, train_text(world, tmp_path / "b", base=base, validation=judging(None)))
    lines = [
        [
            {name: x for name, x in json.loads(line).items() if name not in ("validation/shift", "pairs_per_second")}
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in "ab"
    ]
    assert lines[0] == lines[1]
    first, last = logged(tmp_path / "a")
    assert 0 != first != last != 0


@pytest.mark.parametrize(
    "changed",
    [{"objective": LOSSES["without reference"]}, {"reference": partial(Ema, decay=0.5)}, {"ema": 0.5}],
    ids=["without reference", "against one that moves", "of the moving average"],
)
def test_the_model_before_training_is_what_it_is_measured_against_with_the_weights_of_export(world, tmp_path, changed):
    run_text(world, tmp_path, validation=judging(), **changed)
    assert logged(tmp_path)[-1] == pytest.approx(measured(world, tmp_path), abs=1e-6) != 0


def test_a_resumed_run_tells_the_same(world, tmp_path):
    run_text(world, tmp_path / "whole", validation=judging(), save_every=2)
    run_text(world, tmp_path / "part", validation=judging(), save_every=2, steps=2)
    run_text(world, tmp_path / "part", validation=judging(), save_every=2, resume="latest")
    assert logged(tmp_path / "part")[-1] == logged(tmp_path / "whole")[-1]


def test_remembered_likelihoods_do_not_stand_in_its_way(world, tmp_path):
    run_text(world, tmp_path / "a", validation=judging())
    for name in "bc":
        run_text(world, tmp_path / name, validation=judging(), reference_cache=tmp_path / "answers")
        assert logged(tmp_path / name) == logged(tmp_path / "a")


def share(root) -> None:
    run_text(root, root / "two", validation=judging())


def test_two_processes_tell_what_one_does(world):
    run_text(world, world / "one", validation=judging())
    assert together(2, share, world) == [0, 0]
    assert logged(world / "two") == pytest.approx(logged(world / "one"), abs=1e-6)
    assert logged(world / "two")[-1] == pytest.approx(measured(world, world / "two"), abs=1e-6)


def test_of_one_token_it_estimates_the_divergence_of_policy_and_reference():
    policy, base = (language_model(seed).eval() for seed in (0, 1))
    policy.lm_head.weight.data *= 20
    prompt, fresh = [1, 5, 9], FreshAnswers(prompts=4000, tokens=1, batch_size=1000)
    with torch.no_grad():
        ours, theirs = (model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1) for model in (policy, base))
    exact = (ours.exp() * (ours - theirs)).sum().item()
    spread = ((ours.exp() * (ours - theirs).square()).sum() - exact**2).sqrt().item()
    found = DistributionShift(fresh, [prompt] * 4000, 0, 2)(policy, FrozenCopy(base))["shift"].item()
    assert abs(found - exact) < 3 * spread / 4000**0.5 < exact / 2


def test_the_best_weights_may_be_those_that_moved_least(world, tmp_path):
    run_text(world, tmp_path, validation=judging(keep_best=KeepBest("shift", "lower")))
    assert json.loads((tmp_path / "best.json").read_text())["value"] == min(logged(tmp_path))


def test_prompts_are_different_ones_that_the_seed_picks(world):
    pairs = held_out(world)
    every = DistributionShift.of(pairs, replace(FRESH, prompts=100)).prompts
    assert len(set(every)) == len(every) == pairs.size
    assert DistributionShift.of(pairs, FRESH).prompts == every[:3]
    assert DistributionShift.of(pairs, replace(FRESH, prompts=100, seed=1)).prompts != every
    pairs.tables = pairs.tables * 2
    assert sorted(DistributionShift.of(pairs, replace(FRESH, prompts=100)).prompts) == sorted(every)


def test_prompts_are_cut_on_the_left_to_leave_room_for_answers(world):
    fresh = FreshAnswers(prompts=100, tokens=20)
    whole = DistributionShift.of(held_out(world), fresh).prompts
    cut = DistributionShift.of(held_out(world, max_length=30), fresh).prompts
    assert max(map(len, whole)) > 10 == max(map(len, cut))
    assert {prompt[0] for prompt in cut} == {1}
    with pytest.raises(Refusal, match="tokens 30 leave no room for prompts in data.max_length 30; lower"):
        DistributionShift.of(held_out(world, max_length=30), replace(fresh, tokens=30))


def test_answers_alone_count():
    batch = batch_answers([[1, 5], [1, 6, 7]], [[8, 2], [9]], pad=0)
    assert batch.ids[0].tolist() == [[1, 5, 8, 2], [1, 6, 7, 9]]
    assert batch.scored[0].int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert batch.attended.all()


def test_a_likelihood_is_the_sum_over_the_answer(world):
    network = CausalLM(str(world / "base")).load().network.eval()
    found = sum_logps(network, batch_answers([[1, 5, 6]], [[8, 2]], pad=0))
    said = network(torch.tensor([[1, 5, 6, 8, 2]])).logits.log_softmax(-1)[0]
    torch.testing.assert_close(found[0], said[2, 8] + said[3, 2])


@pytest.mark.parametrize("wrong", [{"prompts": 0}, {"tokens": 0}, {"batch_size": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(Refusal, match=rf"validation\.fresh\.{next(iter(wrong))}"):
        FreshAnswers(**wrong)
