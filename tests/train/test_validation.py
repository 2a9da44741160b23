import json
from itertools import islice

import pytest
import torch
from tiny_runs import PointPreference, Points, fit_points, scorer, weights

from diffpo.core.objective import Step
from diffpo.core.references import FrozenCopy
from diffpo.data.sampler import ProcessShare
from diffpo.train.validation import Validation


def lines(output_dir) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def judged(output_dir) -> dict[int, dict]:
    return {line["step"]: line for line in lines(output_dir) if any(name.startswith("validation/") for name in line)}


def test_training_does_not_notice_it(tmp_path):
    plain = fit_points(tmp_path / "plain", ema=0.5)
    watched = fit_points(tmp_path / "watched", ema=0.5, validation=Validation(Points(), every=1, count=4))
    assert torch.equal(weights(plain), weights(watched))


def test_it_is_judged_as_often_as_told_and_at_the_end(tmp_path):
    fit_points(tmp_path, steps=5, validation=Validation(Points(), every=2, count=4))
    assert sorted(judged(tmp_path)) == [2, 4, 5]


def test_it_knows_what_training_knows(tmp_path):
    fit_points(tmp_path, validation=Validation(Points(), every=4, count=4))
    trained = {f"validation/{name}" for line in lines(tmp_path) for name in line if name.startswith("rewards/")}
    assert trained | {"validation/loss", "step"} == judged(tmp_path)[4].keys()


def test_the_same_weights_are_judged_alike_at_every_step(tmp_path):
    still = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0)}
    fit_points(tmp_path, policy=scorer(1), **still, validation=Validation(Points(), every=1, count=6))
    first, *others = [dict(line, step=0) for line in judged(tmp_path).values()]
    assert len(others) == 3
    assert all(other == first for other in others)


def test_the_moving_average_is_judged_since_it_is_exported(tmp_path):
    exported = fit_points(tmp_path / "run", ema=0.9, steps=3, validation=Validation(Points(), every=3, count=4))
    still = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0), "reference": FrozenCopy(scorer())}
    fit_points(tmp_path / "again", exported, **still, steps=1, validation=Validation(Points(), every=1, count=4))
    again = judged(tmp_path / "again")[1]["validation/loss"]
    assert judged(tmp_path / "run")[3]["validation/loss"] == pytest.approx(again, abs=1e-6)


def test_dropout_is_off_meanwhile_and_no_gradient_is_kept(tmp_path):
    seen = []

    class Watching(PointPreference):
        def __call__(self, policy, reference, batch, draws) -> Step:
            seen.append((policy.training, torch.is_grad_enabled()))
            return super().__call__(policy, reference, batch, draws)

    policy = scorer()
    policy.train()
    fit_points(tmp_path, policy, objective=Watching(), steps=1, validation=Validation(Points(), every=1, count=2))
    assert seen == [(True, True), (True, True), (False, False)]
    assert policy.training


@pytest.mark.parametrize(("count", "batches"), [(1, 1), (2, 1), (3, 2), (12, 6)])
def test_as_many_pairs_as_told_are_judged_in_whole_batches(tmp_path, count, batches):
    asked = []

    class Counted(Points):
        def batches(self, share: ProcessShare):
            for batch in super().batches(share):
                asked.append(batch.row)
                yield batch

    fit_points(tmp_path, steps=1, validation=Validation(Counted(), every=1, count=count))
    assert len(asked) == batches
    assert asked == [batch.row for batch in islice(Points().batches(ProcessShare(2, seed=0)), batches)]
