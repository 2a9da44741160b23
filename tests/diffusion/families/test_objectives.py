"""Objectives on a flow: what each asks of a path holds there, or is refused."""

import json
import math
from pathlib import Path

import pytest
from tiny import pair_folder
from tiny_families import sd3

from diffpo.cli.command import parse
from diffpo.commands import train
from diffpo.core.refusal import Refusal

METHOD, LOSS = "--objective=diffpo.diffusion.methods.", "--objective.loss=diffpo.losses.Sigmoid"
PREFERENCE = ["--objective=diffpo.diffusion.DenoisingPreference", LOSS]
SHORT = ("--fit.steps=2", "--fit.batch_size=4", "--fit.per_device_batch_size=4", "--fit.warmup=0", "--fit.log_every=1")
LOG_2 = math.log(2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    sd3(with_t5=False).save_pretrained(root / "base")
    pair_folder(root / "pairs", n=4)
    return root


@pytest.mark.parametrize(
    ("objective", "first"),
    [
        (PREFERENCE, LOG_2),
        ([*PREFERENCE, "--objective.guard.mu=0.2"], LOG_2),
        ([*PREFERENCE, "--objective.space=diffpo.diffusion.OutputSpace"], LOG_2),
        ([METHOD + "InPO"], LOG_2),
        ([METHOD + "SmPO", LOSS], LOG_2),
        ([METHOD + "JointGuidance", "--objective.guidance=2", LOSS], LOG_2),
        ([METHOD + "KTO"], 0.5),
        ([METHOD + "SFT"], None),
        ([METHOD + "DSPO"], None),
        ([METHOD + "SelfNPO", "--reference=diffpo.core.Ema"], None),
        ([PREFERENCE[0], "--objective.loss=diffpo.diffusion.methods.MaPO"], None),
    ],
    ids=["DPO", "guarded", "OutputSpace", "InPO", "SmPO", "joint", "KTO", "SFT", "DSPO", "SelfNPO", "MaPO"],
)
def test_an_objective_trains_on_a_flow(root, tmp_path, objective, first):
    """The first loss is what it is wherever policy and reference are one, and something is learned."""
    train_two_steps(root, tmp_path / "run", objective)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert all(math.isfinite(loss) for loss in losses)
    assert min(line["grad_norm"] for line in lines if "grad_norm" in line) > 0
    if first is not None:
        assert losses[0] == pytest.approx(first, abs=1e-5)


def test_a_flow_refuses_a_weighting_that_divides_by_the_signal(root, tmp_path):
    with pytest.raises(Refusal, match=r"InverseSNR needs a schedule that never reaches zero SNR"):
        train_two_steps(root, tmp_path / "run", [*PREFERENCE, "--objective.weighting=diffpo.diffusion.InverseSNR"])


def train_two_steps(root: Path, out: Path, objective: list[str]) -> None:
    words = [
        *(f"--base.path={root / 'base'}", "--base.family=diffpo.diffusion.families.SD3", "--base.family.length=1"),
        *("--data.source=diffpo.data.PairFolder", f"--data.source.path={root / 'pairs'}"),
        *("--data.framing.resolution=64", "--data.workers=0", f"--output_dir={out}"),
        *("--optimizer=torch.optim.AdamW", "--optimizer.lr=1e-3", *SHORT, *objective),
    ]
    chosen, settings = parse(train.main, words)
    train.main(**chosen, settings=settings)
