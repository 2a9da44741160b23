"""Rounds on pictures: what a model draws is judged, paired and trained on."""

import errno
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from brightness import Brightness
from PIL import Image
from torch.optim import AdamW

from diffpo.commands import judge, pair, sample, train, train_picture_rounds
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.model import sampling
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.model.sampling import PictureSampler, generate_pictures
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.evaluation.prompts import Prompts
from diffpo.losses.logistic import Sigmoid
from diffpo.rounds.judges import FromScorer
from diffpo.rounds.loop import RoundPlan
from diffpo.rounds.pairings import BestWorst
from diffpo.rounds.plans import Momentum, ToBoth, ToStart
from diffpo.rounds.stages import judge_candidates, sample_candidates
from diffpo.rounds.tables import RoundPairs, read_table
from diffpo.storage.tensors import open_tensors
from diffpo.text.model.loading import CausalLM
from diffpo.text.model.sampling import TextSampler
from diffpo.train import fit as loop
from diffpo.train.run import FitConfig

PROMPTS = ["a red circle", "a blue cross", "a green square", "a pink dot"]
SAMPLER = PictureSampler(steps=1, guidance=1.0)
SHORT = FitConfig(steps=2, batch_size=2, per_device_batch_size=2, save_every=1)
OBJECTIVE = DenoisingPreference(loss=Sigmoid(beta=50.0))


class Killed(BaseException):
    """What no handler expects."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    tiny.saved(root / "base")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


@pytest.fixture(autouse=True)
def two_at_a_time(monkeypatch):
    monkeypatch.setattr(PictureSampler, "together", 2)


def run(world: Path, folder: Path, rounds: RoundPlan, source=None, adapter=None, **changed) -> None:
    data = PairData(source or RoundPairs(), framing=Framing(resolution=32, flip=False), caption_dropout=0.0, workers=0)
    parts = {
        "sampler": SAMPLER,
        "judge": FromScorer(Brightness(), 1.0),
        "pairing": BestWorst(),
        "fit": SHORT,
    } | changed
    train_picture_rounds.main(
        OBJECTIVE,
        StableDiffusion(str(world / "base"), adapter=adapter),
        data,
        partial(AdamW, lr=1e-3),
        folder,
        prompts=Prompts(str(world / "prompts.txt")),
        rounds=rounds,
        **parts,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [*folder.glob("*.safetensors"), *folder.glob("unet/*.safetensors")]
    assert files
    return dict(open_tensors(files))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_pairs_of_a_round_are_the_brightest_and_the_darkest_that_the_model_drew(world, tmp_path):
    run(world, tmp_path, RoundPlan(rounds=1, k=3))
    folder = tmp_path / "round-0000"
    drawn, _ = read_table(folder / "candidates.parquet")
    assert [(one["prompt"], one["candidate"]) for one in drawn] == [(p, c) for p in PROMPTS for c in range(3)]
    pipe = tiny.pipeline()
    for one in drawn[:4]:
        [again] = generate_pictures(pipe, [one["prompt"]], [one["seed"]], one["steps"], one["guidance"])
        np.testing.assert_allclose(opened(folder, one["picture"]), np.asarray(again, dtype=int), atol=1)
    assert len({one["seed"] for one in drawn}) == len(drawn)
    pairs, _ = read_table(folder / "pairs.parquet")
    for made in pairs:
        bright = [opened(folder, one["picture"]).mean() for one in drawn if one["prompt"] == made["prompt"]]
        assert made["score_chosen"] == pytest.approx(max(bright), rel=1e-5)
        assert made["score_rejected"] == pytest.approx(min(bright), rel=1e-5)
        assert opened(folder, made["chosen"]).mean() == pytest.approx(max(bright))
    said = json.loads((folder / "round.json").read_text())
    assert said["prompts"] == 4
    assert not {"guidance", "steps", "seed"} & said.keys()
    assert weights(folder / "weights")


def opened(folder: Path, kept: dict) -> np.ndarray:
    return np.asarray(Image.open(folder / kept["path"]), dtype=int)


def test_a_picture_depends_on_its_seed_round_prompt_and_number_alone():
    pipe = tiny.pipeline()

    def drawn(rows: list[int], k: int, epoch: int = 0) -> list[list[np.ndarray]]:
        draws = Draws(7, (epoch,) * len(rows), tuple(rows))
        sides = SAMPLER(pipe, [PROMPTS[row] for row in rows], k, draws)
        return [[np.asarray(one.content, dtype=int) for one in side] for side in sides]

    together = drawn([0, 1, 2], 2)
    for row in range(3):
        for side, alone in zip(together, drawn([row], 2), strict=True):
            np.testing.assert_array_equal(side[row], alone[0])
    np.testing.assert_allclose(drawn([1], 3)[1][0], together[1][1], atol=1)
    assert abs(drawn([1], 2, epoch=1)[0][0] - together[0][1]).max() > 1


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["whole", "lora"])
def test_a_kill_goes_on_to_the_same_bits_in_each_stage(world, tmp_path, monkeypatch, adapter):
    """While drawing the second round, and while training in it; held half to the base and half to the start."""
    plan = RoundPlan(rounds=2, k=2, keep=None, reference=ToBoth(0.5))
    run(world, tmp_path / "whole", plan, adapter=adapter)
    draw, update, drawn, updates = sampling.generate_pictures, loop.Learner.update, [], []

    def drawing(*args, **kwargs):
        drawn.append(1)
        if len(drawn) == 7:  # four prompts of the first round, the third of the second
            raise Killed
        return draw(*args, **kwargs)

    def updating(self, *args):
        updates.append(1)
        if len(updates) == 4:
            raise Killed
        return update(self, *args)

    monkeypatch.setattr(sampling, "generate_pictures", drawing)
    monkeypatch.setattr(loop.Learner, "update", updating)
    for _ in range(2):
        with pytest.raises(Killed):
            run(world, tmp_path / "killed", plan, adapter=adapter)
    run(world, tmp_path / "killed", plan, adapter=adapter)
    assert (len(drawn), len(updates)) == (9, 5)
    last = "round-0001/weights"
    assert same(weights(tmp_path / "killed" / last), weights(tmp_path / "whole" / last))
    assert not same(weights(tmp_path / "whole" / last), weights(tmp_path / "whole/round-0000/weights"))
    for name in ("candidates", "wins", "pairs", "trained"):
        file = f"round-0001/{name}.parquet"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    rows, _ = read_table(tmp_path / "whole/round-0001/trained.parquet")
    assert {row["chosen"]["path"].split("/")[0] for row in rows} == {"round-0000", "round-0001"}


def test_one_round_is_the_offline_run_on_its_pictures(world, tmp_path):
    """Pairs of a round are a table as any other: the same weights from `diffpo train` on it."""
    run(world, tmp_path / "rounds", RoundPlan(rounds=1, k=2))
    folder = tmp_path / "rounds/round-0000"
    data = PairData(Columns(str(folder / "pairs.parquet")), framing=Framing(resolution=32, flip=False), workers=0)
    base, optimizer = StableDiffusion(str(world / "base")), partial(AdamW, lr=1e-3)
    data = PairData(data.source, framing=data.framing, caption_dropout=0.0, workers=0)
    train.main(OBJECTIVE, base, data, optimizer, tmp_path / "offline", SHORT)
    assert same(weights(folder / "weights"), weights(tmp_path / "offline"))


def test_a_round_starts_from_the_one_before_and_is_held_to_what_its_plan_says(world, tmp_path, monkeypatch):
    seen, main = [], train.main

    def watched(objective, base, data, optimizer, output_dir, fit, reference=None, **options):
        seen.append((base, reference))
        main(objective, base, data, optimizer, output_dir, fit, reference, **options)

    monkeypatch.setattr(train, "main", watched)
    run(world, tmp_path / "base", RoundPlan(rounds=2, k=2))
    (first, none), (second, made) = seen
    assert (first.unet, none) == (None, None)
    assert second.unet == str(tmp_path / "base/round-0000/weights")
    tuned = tiny.unet()
    tuned.load_state_dict(weights(tmp_path / "base/round-0000/weights"))
    found = made(tuned)(lambda network: torch.cat([p.flatten() for p in network.parameters()]))
    assert torch.equal(found, torch.cat([p.flatten() for p in tiny.unet().parameters()]))
    run(world, tmp_path / "start", RoundPlan(rounds=1, k=2, reference=ToStart()))
    assert seen[-1][1] is not None


def test_pictures_that_were_changed_are_refused(world, tmp_path):
    sample_candidates(tmp_path, dict(enumerate(PROMPTS)), SAMPLER, tiny.pipeline, 2, 0, 0, "m")
    [first, other, *_] = sorted((tmp_path / "pictures").iterdir())
    shutil.copy(other, first)
    with pytest.raises(Refusal, match=f"{first.name} is not the picture that was drawn"):
        judge_candidates(tmp_path, FromScorer(Brightness()), BestWorst())


def test_momentum_is_refused(world, tmp_path):
    with pytest.raises(Refusal, match="for language models"):
        run(world, tmp_path, RoundPlan(rounds=1, k=2, start=Momentum(0.3)))


def test_the_stages_alone_make_pairs_of_drawn_pictures(world, tmp_path, capsys):
    base, prompts = StableDiffusion(str(world / "base")), Prompts(str(world / "prompts.txt"))
    sample.main(SAMPLER, prompts, tmp_path, pipeline=base, k=3)
    judge.main(FromScorer(Brightness(), 1.0), tmp_path, BestWorst())
    pair.main(BestWorst(), tmp_path)
    assert "diffpo train --data.source diffpo.rounds.RoundPairs" in capsys.readouterr().out
    pairs = RoundPairs(str(tmp_path / "pairs.parquet"))
    data = PairData(pairs, framing=Framing(resolution=32, flip=False), workers=0)
    train.main(OBJECTIVE, base, data, partial(AdamW, lr=1e-3), tmp_path / "run", SHORT)
    sample.main(SAMPLER, prompts, tmp_path / "tuned", pipeline=base, weights=tmp_path / "run", k=2)
    before, after = (read_table(folder / "candidates.parquet")[0][0] for folder in (tmp_path, tmp_path / "tuned"))
    assert before["seed"] == after["seed"]
    assert before["picture"]["sha256"] != after["picture"]["sha256"]
    assert after["model"] == str(tmp_path / "run")


def test_who_answers_has_to_suit_the_sampler(world, tmp_path):
    prompts, drawing = Prompts(str(world / "prompts.txt")), StableDiffusion(str(world / "base"))
    with pytest.raises(Refusal, match="name it in pipeline.path"):
        sample.main(SAMPLER, prompts, tmp_path)
    with pytest.raises(Refusal, match="PictureSampler takes no base"):
        sample.main(SAMPLER, prompts, tmp_path, base=CausalLM("assets/tiny-lm"), pipeline=drawing)
    with pytest.raises(Refusal, match="TextSampler takes no pipeline"):
        sample.main(TextSampler(), prompts, tmp_path, base=CausalLM("assets/tiny-lm"), pipeline=drawing)


def test_a_sampler_of_texts_is_refused_before_anything_is_drawn(world, tmp_path):
    with pytest.raises(Refusal, match="TextSampler samples texts, this is training on pictures"):
        run(world, tmp_path, RoundPlan(rounds=1, k=2), sampler=TextSampler())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_a_line_and_the_same_call_goes_on(world, tmp_path, monkeypatch):
    plan, save, saved = RoundPlan(rounds=1, k=2), Image.Image.save, []

    def full(self, *args, **options):
        saved.append(1)
        if len(saved) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        with pytest.raises(Refusal, match="make room and run the same command again"):
            run(world, tmp_path / "full", plan)
    run(world, tmp_path / "full", plan)
    run(world, tmp_path / "whole", plan)
    last = "round-0000/weights"
    assert same(weights(tmp_path / "full" / last), weights(tmp_path / "whole" / last))
