import json
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import together
from torch.optim import AdamW

from diffpo.commands import judge, pair, sample, train_rounds, train_text
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.mixture import Mixed
from diffpo.evaluation.prompts import Prompts
from diffpo.lab.rewrites.oracle import RewriteOracle
from diffpo.lab.rewrites.shift import estimate_shift
from diffpo.losses.logistic import Sigmoid
from diffpo.rounds.judges import Drawn, FromScorer
from diffpo.rounds.loop import RoundPlan
from diffpo.rounds.pairings import AllPairs, BestWorst, WithCalibration
from diffpo.rounds.plans import FirstOfPair, Momentum, ToBase, ToBoth, ToStart
from diffpo.rounds.samplers import APART, SeveralSamplers
from diffpo.rounds.tables import RoundPairs, read_table
from diffpo.storage.tensors import open_tensors
from diffpo.text.data.pairs import TextData
from diffpo.text.methods.vpo import VPO
from diffpo.text.model.loading import CausalLM, load_base
from diffpo.text.model.lora import TextLoRA
from diffpo.text.model.sampling import OfModel, TextSampler
from diffpo.text.objective.preference import SequencePreference
from diffpo.train import fit as loop
from diffpo.train.run import FitConfig

LM = CausalLM("assets/tiny-lm")
PROMPTS = Prompts("assets/tiny-rewrites/prompts/development.jsonl", count=12)
SAMPLER = TextSampler(max_tokens=24)
JUDGE = Drawn(FromScorer(RewriteOracle(), temperature=0.2))
SHORT = FitConfig(steps=2, batch_size=4, per_device_batch_size=4, save_every=1)


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Columns:
    """A few pairs of the tiny world: reading all of them takes longer than these trainings."""
    table = pq.read_table("assets/tiny-rewrites/train.parquet").slice(0, 24)
    pq.write_table(table, file := tmp_path_factory.mktemp("offline") / "few.parquet")
    return Columns(str(file))


class Killed(BaseException):
    """What no handler expects."""


def run(folder: Path, rounds: RoundPlan, base: CausalLM = LM, source=None, **changed) -> None:
    data = TextData(source or RoundPairs(), max_length=64, workers=0)
    optimizer = partial(AdamW, lr=1e-3)
    parts = {"sampler": SAMPLER, "judge": JUDGE, "pairing": BestWorst(), "objective": SequencePreference()} | changed
    parts |= {"base": base, "data": data, "optimizer": optimizer, "fit": SHORT, "prompts": PROMPTS, "rounds": rounds}
    train_rounds.main(output_dir=folder, **parts)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return dict(open_tensors(files))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_round_on_offline_pairs_alone_is_the_offline_run(tmp_path, offline):
    run(tmp_path / "rounds", RoundPlan(rounds=1, k=2), source=offline)
    data = TextData(offline, max_length=64, workers=0)
    train_text.main(SequencePreference(), LM, data, partial(AdamW, lr=1e-3), tmp_path / "offline", SHORT)
    assert same(weights(tmp_path / "rounds/round-0000/weights"), weights(tmp_path / "offline"))


def test_a_kill_within_training_goes_on_to_the_same_bits(tmp_path, offline, monkeypatch):
    """A LoRA that goes on from round to round, held to the base and to the start of each."""
    base = CausalLM("assets/tiny-lm", adapter=TextLoRA(rank=2, targets=["q_proj", "v_proj"]))
    plan = RoundPlan(rounds=2, k=2, reference=ToBoth(0.5))
    mixed = Mixed([RoundPairs(), offline], [1.0, 1.0])
    run(tmp_path / "whole", plan, base, mixed)
    updates, update = [], loop.Learner.update

    def counting(self, *args):
        updates.append(1)
        if len(updates) == 4:
            raise Killed
        return update(self, *args)

    monkeypatch.setattr(loop.Learner, "update", counting)
    with pytest.raises(Killed):
        run(tmp_path / "killed", plan, base, mixed)
    assert (tmp_path / "killed/round-0001/weights/checkpoint-000001").exists()
    run(tmp_path / "killed", plan, base, mixed)
    assert len(updates) == 5
    last = "round-0001/weights"
    assert same(weights(tmp_path / "killed" / last), weights(tmp_path / "whole" / last))
    assert not same(weights(tmp_path / "whole" / last), weights(tmp_path / "whole/round-0000/weights"))
    for name in ("candidates.parquet", "wins.parquet", "pairs.parquet", "round.json"):
        file = f"round-0001/{name}"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.parametrize(
    "plan",
    [
        RoundPlan(rounds=2, k=2, start=Momentum(0.3), reference=ToStart()),
        RoundPlan(rounds=2, k=2, start=FirstOfPair(), reference=ToBase()),
    ],
)
def test_a_second_round_of_all_weights_starts_where_its_plan_says(tmp_path, plan):
    run(tmp_path, plan)
    said = json.loads((tmp_path / "round-0001/round.json").read_text())
    assert 0 < said["yield"] <= 1
    assert said["tokens"] > 1
    assert json.loads((tmp_path / "round-0000/round.json").read_text())["kl"] == 0
    assert said["kl"] == pytest.approx(measured_kl(tmp_path), abs=1e-5)
    first, second = (weights(tmp_path / f"round-000{n}/weights") for n in range(2))
    base = weights(Path("assets/tiny-lm"))
    made = tmp_path / "round-0001/start"
    if plan.start == Momentum(0.3):
        name = next(name for name in first if not torch.equal(first[name], base[name]))
        expected = first[name].double() + 0.3 * (first[name].double() - base[name].double())
        torch.testing.assert_close(weights(made)[name].double(), expected, rtol=1e-6, atol=1e-8)
    else:
        assert not made.exists()
        assert not same(first, second)
        # Adam's first steps move each weight by the learning rate at most: 2 steps from the base, not 4.
        assert max((second[name] - base[name]).abs().max() for name in base) < 2.2e-3


def measured_kl(folder: Path) -> float:
    """Of the first answers of the second round, which its table names, to the base."""
    candidates, about = read_table(folder / "round-0001/candidates.parquet")
    models = [load_base(CausalLM(str(path))) for path in (folder / about["model"], "assets/tiny-lm")]
    first = [record for record in candidates if record["candidate"] == 0]
    asked, written = [record["prompt"] for record in first], [[record["text"]] for record in first]
    return estimate_shift(*models, asked, written)


def test_what_is_sampled_otherwise_tells_no_kl(tmp_path):
    run(tmp_path, RoundPlan(rounds=1, k=2), sampler=TextSampler(temperature=0.7, max_tokens=24))
    assert "kl" not in json.loads((tmp_path / "round-0000/round.json").read_text())


def test_the_kl_is_of_the_first_candidate_that_is_sampled_from_the_model_as_it_is():
    hot, other = TextSampler(temperature=2.0), OfModel("assets/tiny-lm", SAMPLER)
    assert train_rounds.find_plain(SAMPLER) == 0
    assert train_rounds.find_plain(SeveralSamplers([hot, SAMPLER], [2, 1])) == 2
    assert train_rounds.find_plain(SeveralSamplers([other, hot], [1, 1])) is None
    assert [TextSampler(top_k=4).is_plain, TextSampler(top_p=0.9).is_plain, TextSampler(top_p=1.0).is_plain] == [
        False,
        False,
        True,
    ]


def test_vpo_trains_on_pairs_with_an_answer_of_the_base(tmp_path):
    plain = TextSampler(max_tokens=24)
    sampler = SeveralSamplers([plain, OfModel("assets/tiny-lm", plain)], [2, 1])
    plan = RoundPlan(rounds=2, k=3)
    run(tmp_path, plan, sampler=sampler, pairing=WithCalibration(), objective=VPO(SequencePreference(Sigmoid(0.3))))
    candidates, _ = read_table(tmp_path / "round-0001/candidates.parquet")
    pairs, _ = read_table(tmp_path / "round-0001/pairs.parquet")
    thirds = {record["prompt_id"]: record["text"] for record in candidates if record["candidate"] == 2}
    assert all(pair["calibration"] == thirds[pair["prompt_id"]] for pair in pairs)
    assert {pair[f"candidate_{side}"] for pair in pairs for side in ("chosen", "rejected")} == {0, 1}
    again = OfModel("assets/tiny-lm", plain)
    draws = Draws(APART, (1,) * len(thirds), tuple(thirds))
    asked = {record["prompt_id"]: record["prompt"] for record in candidates}
    said = again(load_base(LM), list(asked.values()), 1, draws)[0]
    assert [one.content for one in said] == list(thirds.values())
    logged = (tmp_path / "round-0001/weights/metrics.jsonl").read_text()
    assert "calibration" in logged


def make_stages(folder: Path) -> None:
    sample.main(SAMPLER, PROMPTS, folder, LM, k=3, seed=5)
    judge.main(JUDGE, folder)
    pair.main(AllPairs(), folder)


def test_two_processes_write_the_tables_of_one(tmp_path):
    make_stages(tmp_path / "one")
    assert together(2, make_stages, tmp_path / "two") == [0, 0]
    for name in ("candidates.parquet", "wins.parquet", "pairs.parquet"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_momentum_of_a_lora_is_refused(tmp_path):
    base = CausalLM("assets/tiny-lm", adapter=TextLoRA(rank=2, targets=["q_proj"]))
    with pytest.raises(Refusal, match="LoRA|no weights"):
        run(tmp_path, RoundPlan(rounds=2, k=2, start=Momentum()), base)


def test_the_stages_alone_make_the_pairs_of_a_round(tmp_path, capsys):
    sample.main(SAMPLER, PROMPTS, tmp_path, LM, k=3, seed=5)
    judge.main(JUDGE, tmp_path)
    pair.main(AllPairs(), tmp_path)
    said = capsys.readouterr().out
    assert "3 answers to each of 12 prompts" in said
    assert f"--data.source.path {tmp_path / 'pairs.parquet'}" in said
    pairs, _ = read_table(tmp_path / "pairs.parquet")
    candidates, _ = read_table(tmp_path / "candidates.parquet")
    assert [record["candidate"] for record in candidates] == [0, 1, 2] * 12
    assert len(pairs) > 12
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    with pytest.raises(Refusal, match="pairing was 'AllPairs"):
        pair.main(BestWorst(), tmp_path)
    with pytest.raises(Refusal, match="needs a model"):
        sample.main(SAMPLER, PROMPTS, tmp_path / "other")
