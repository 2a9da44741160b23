import math
import os
from dataclasses import dataclass, field, replace

import pytest
import torch
from accelerate import Accelerator
from brightness import Brightness
from sharded import shard
from tiny import moved, pair_folder, pipeline
from tiny_runs import together

from diffpo.cli.command import parse
from diffpo.commands import train_text
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.evaluation.held_out import DrawnPrompts, DrawnScores, HeldOut
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.evaluation.prompts import Prompts
from diffpo.lab.scenes.scorer import SceneOracle
from diffpo.train.state.best import KeepBest

FRAMING = Framing(16, random_crop=True)


def rows(pairs) -> set[int]:
    return set(next(iter(pairs.batches(ProcessShare(pairs.size, seed=0)))).row)


@pytest.fixture
def data(tmp_path):
    return PairData(PairFolder(str(pair_folder(tmp_path / "own", n=40))), framing=FRAMING, workers=0)


def test_each_pair_is_either_trained_on_or_judged(data):
    training, validation = HeldOut(share=0.3).split(data, seed=0)
    assert rows(training) | rows(validation.pairs) == set(range(40))
    assert not rows(training) & rows(validation.pairs)
    assert 4 <= validation.pairs.size <= 20


def test_the_split_does_not_depend_on_the_seed(data):
    one, other = (HeldOut(share=0.3).split(data, seed)[1].pairs for seed in (0, 1))
    assert rows(one) == rows(other)


def test_held_out_pairs_are_read_plainly(data):
    _, validation = HeldOut(share=0.3).split(data, seed=0)
    assert validation.pairs.reader.framing == Framing(16, flip=False, random_crop=False)
    assert all("" not in side for side in validation.pairs.first(5).prompts)


def test_pairs_from_elsewhere_leave_the_training_data_whole(data, tmp_path):
    other = PairFolder(str(pair_folder(tmp_path / "other", n=5)))
    training, validation = HeldOut(source=other, every=7, pairs=3).split(data, seed=0)
    assert (training.size, validation.pairs.size) == (40, 5)
    assert (validation.every, validation.count) == (7, 3)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"every": 0}, {"pairs": 0}])
def test_what_cannot_be_judged_is_refused(wrong):
    with pytest.raises(Refusal, match="validation"):
        HeldOut(**wrong)


def test_the_share_must_leave_pairs_on_both_sides(data):
    with pytest.raises(Refusal, match="No pairs left of 40 rows.*ForValidation dropped 40"):
        HeldOut(share=1e-9).split(data, seed=0)


def test_the_draws_of_held_out_pairs_do_not_repeat_with_those_of_training(data):
    training, validation = HeldOut(share=0.3).split(replace(data, cycle=2), seed=0)
    assert (training.cycle, validation.pairs.cycle) == (2, None)


PROMPTS = ["a red circle", "a blue cross", "a green square"]
FEW = {"steps": 2, "guidance": 2.0, "first_seed": 5, "batch_size": 2}


@dataclass(frozen=True)
class Told(Brightness):
    """A scorer that gives each time the next of the scores that it was told."""

    values: tuple[tuple[float, ...], ...] = ()
    calls: list = field(default_factory=list)

    def __call__(self, prompts, candidates):
        self.calls.append(list(prompts))
        return torch.tensor(self.values[len(self.calls) - 1])


def drawn(scorer=None, pipe=None, **changed) -> DrawnScores:
    config = DrawnPrompts(PROMPTS, scorer or Brightness(), **FEW | changed)
    return DrawnScores(config, pipe or pipeline(), Accelerator(cpu=True))


@pytest.mark.parametrize(
    ("ours", "rate", "mean"),
    [((2.0, 2.0, 1.0), 0.5, 5 / 3), ((9.0, 2.0, 4.0), 5 / 6, 5.0), ((0.0, 0.0, 0.0), 0.0, 0.0)],
)
def test_pictures_win_over_those_of_the_beginning_and_a_tie_counts_half(ours, rate, mean):
    scores = drawn(Told(values=((1.0, 2.0, 3.0), ours)))
    scores.begin()
    assert scores() == {"drawn_win_rate": pytest.approx(rate), "drawn_score": pytest.approx(mean)}


@pytest.mark.parametrize(("unseen", "rate"), [(0.0, 2 / 3), (0.25, 0.5), (0.5, 2 / 3), (4.0, 0.5)])
def test_differences_that_nobody_sees_are_ties(unseen, rate):
    scores = drawn(Told(values=((1.0, 2.0, 3.0), (1.25, 1.5, 6.0))), unseen=unseen)
    scores.begin()
    assert scores()["drawn_win_rate"] == pytest.approx(rate)


def test_what_a_scorer_cannot_say_is_no_number():
    scores = drawn(Told(values=((1.0, 2.0, 3.0), (1.0, float("nan"), 3.0))))
    scores.begin()
    assert all(math.isnan(value) for value in scores().values())


def test_each_picture_is_of_its_own_seed_whatever_the_weights_are():
    pipe = pipeline()
    scores = drawn(pipe=pipe, pictures=2)
    scores.begin()
    before = scores.base
    moved(pipe.unet)
    asked = [prompt for prompt in PROMPTS for _ in range(2)]
    pipe.unet.eval()
    pictures = generate_pictures(pipe, asked, range(5, 11), steps=2, guidance=2.0, batch_size=2)
    after = Brightness()(asked, pictures).double().numpy()
    assert len(set(after)) == 6
    wins = (after > before).mean() + (after == before).mean() / 2
    assert scores() == {"drawn_win_rate": wins, "drawn_score": pytest.approx(after.mean())}


def test_weights_that_have_not_moved_tie():
    scores = drawn()
    scores.begin()
    assert scores()["drawn_win_rate"] == 0.5


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompts": []}, "drawn.prompts needs texts to draw"),
        ({"prompts": ["a red circle", " "]}, "drawn.prompts needs texts to draw"),
        ({"prompts": Prompts("no/such.jsonl")}, "no/such.jsonl"),
        ({"pictures": 0}, "validation.drawn.pictures must be at least 1"),
        ({"steps": 0}, "validation.drawn.steps must be at least 1"),
        ({"batch_size": 0}, "validation.drawn.batch_size must be at least 1"),
        ({"side": 0}, "validation.drawn.side must be at least 1"),
        ({"first_seed": -1}, "validation.drawn.first_seed must be at least 0"),
        ({"prompts": ["the meaning of life"], "scorer": SceneOracle()}, "the meaning of life"),
    ],
)
def test_what_cannot_be_drawn_or_scored_is_refused_at_once(wrong, told):
    with pytest.raises(Refusal, match=told):
        DrawnPrompts(**{"prompts": PROMPTS, "scorer": Brightness()} | wrong)


def test_more_steps_than_the_base_knows_are_refused_before_the_first_step():
    with pytest.raises(Refusal, match="2000 denoising steps are more than the 1000"):
        drawn(steps=2000).begin()


@pytest.mark.parametrize("metric", ["drawn_win_rate", "validation/drawn_score"])
def test_the_best_by_pictures_needs_pictures(metric):
    with pytest.raises(Refusal, match=f"keep_best.metric {metric} is of pictures that are drawn.*validation.drawn"):
        HeldOut(keep_best=KeepBest(metric, "higher"))
    HeldOut(keep_best=KeepBest(metric, "higher"), drawn=DrawnPrompts(PROMPTS, Brightness()))


def test_texts_draw_no_pictures(capsys):
    with pytest.raises(SystemExit):
        parse(train_text.main, ["--config=text/quickstart", "--output_dir=out", "--validation.drawn.steps=1"])
    assert "unrecognized arguments: --drawn.steps=1" in capsys.readouterr().err


def scores_in_two(root, splits: bool) -> None:
    """What each of two processes knows of a network, which they may have split."""
    pipe, rank = pipeline(), int(os.environ["RANK"])
    accelerator = Accelerator(cpu=True)
    if splits:
        shard(pipe.unet)
    scores = DrawnScores(DrawnPrompts(PROMPTS, Brightness(root / f"log-{rank}"), **FEW), pipe, accelerator)
    torch.save(torch.tensor(scores.draw()), root / f"scores-{rank}")


@pytest.mark.parametrize(("splits", "each"), [(False, [2, 1]), (True, [3, 3])])
def test_processes_share_the_pictures_and_all_know_the_scores(tmp_path, splits, each):
    assert together(2, scores_in_two, tmp_path, splits) == [0, 0]
    alone = torch.tensor(drawn().draw())
    assert all(torch.equal(torch.load(tmp_path / f"scores-{rank}"), alone) for rank in (0, 1))
    assert [len((tmp_path / f"log-{rank}").read_text().split()) for rank in (0, 1)] == each
