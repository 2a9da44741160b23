import json
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from tiny_text import saved_language_model
from tiny_text_runs import run_text, text_files, train_text

from diffpo.core.refusal import Refusal
from diffpo.losses.reference_free import SimPO
from diffpo.text.data.pairs import HeldOutTexts, OrdinaryTexts
from diffpo.text.evaluation.capability import CapabilityLoss, measure_nll, read_plain
from diffpo.text.model.loading import CausalLM
from diffpo.text.model.lora import TextLoRA
from diffpo.text.objective.preference import SequencePreference
from diffpo.train.state.best import KeepBest

TEXTS = ["the one", "a text that nobody prefers", "xyz", "so it goes, and goes"]
STANDING = partial(torch.optim.SGD, lr=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return CausalLM(saved_language_model(tmp_path_factory.mktemp("base"))).load()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = text_files(tmp_path_factory.mktemp("texts"))
    (root / "ordinary.txt").write_text("\n\n".join(TEXTS))
    return root


def judging(world, **changed) -> HeldOutTexts:
    return HeldOutTexts(share=0.4, every=2, pairs=4, ordinary=OrdinaryTexts(str(world / "ordinary.txt")), **changed)


def logged(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["validation/capability/loss"] for line in lines if "validation/capability/loss" in line]


def test_it_is_what_the_network_itself_says_of_each_text_and_its_end(base):
    tokenizer, losses, tokens = base.tokenizing.tokenizer, 0.0, 0
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
            losses += base.network(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    assert measure_nll(base.network, read_plain(base, TEXTS, 64, 4)) == pytest.approx(losses / tokens, rel=1e-6)


def test_batches_change_nothing_but_rounding(base):
    one, other = (measure_nll(base.network, read_plain(base, TEXTS, 64, together)) for together in (1, 3))
    assert one == pytest.approx(other, rel=1e-6)


def test_what_is_cut_is_told(base):
    assert ".  Of" not in CapabilityLoss.of(base, TEXTS, 64, 4, nullcontext()).report()
    said = CapabilityLoss.of(base, TEXTS, 9, 4, nullcontext()).report()
    assert said.startswith("The capability loss is measured on 4 ordinary texts: ")
    assert said.endswith(" Of these texts, 2 completions were cut on the right.")


@pytest.mark.parametrize("adapter", [None, TextLoRA(rank=2)], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("loss", [None, SimPO()], ids=["against a reference", "without reference"])
def test_it_is_0_where_policy_and_base_are_one(world, tmp_path, adapter, loss):
    objective = SequencePreference(loss=loss) if loss else SequencePreference()
    base = CausalLM(str(world / "base"), adapter=adapter)
    run_text(world, tmp_path, objective=objective, base=base, optimizer=STANDING, validation=judging(world))
    assert logged(tmp_path) == [0.0, 0.0]


def test_it_moves_with_the_policy_which_is_trained_as_without_it(world, tmp_path):
    measured = train_text(world, tmp_path / "a", validation=judging(world))
    assert torch.equal(measured, train_text(world, tmp_path / "b", validation=HeldOutTexts(0.4, every=2, pairs=4)))
    first, last = logged(tmp_path / "a")
    tuned, before = CausalLM(str(tmp_path / "a")).load(), CausalLM(str(world / "base")).load()
    after, base = (measure_nll(model.network, read_plain(model, TEXTS, 64, 4)) for model in (tuned, before))
    assert 0 != first != last == pytest.approx(after - base, abs=1e-6)


def test_the_best_weights_may_be_those_that_forgot_least(world, tmp_path):
    run_text(world, tmp_path, validation=judging(world, keep_best=KeepBest("capability/loss", "lower")))
    assert json.loads((tmp_path / "best.json").read_text())["value"] == min(logged(tmp_path))


def test_texts_come_from_a_table_as_well(world, tmp_path):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    assert [record["text"] for record in OrdinaryTexts(str(tmp_path / "texts.jsonl"), count=3).read()] == TEXTS[:3]


def test_a_file_without_texts_is_refused_before_training(world, tmp_path):
    (tmp_path / "none.txt").write_text("\n")
    nothing = HeldOutTexts(0.4, ordinary=OrdinaryTexts(str(tmp_path / "none.txt")))
    with pytest.raises(Refusal, match=r"none\.txt holds no texts\."):
        run_text(world, tmp_path / "run", validation=nothing)
