from functools import partial

import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.evaluation.prompts import Prompts
from diffpo.lab.rewrites.cycle import (
    POSITIONS,
    CyclicJudge,
    CyclicRewriting,
    count_places,
    count_votes,
    exploitability,
    play_extragradient,
    play_one_phase,
    step_mirror,
)
from diffpo.lab.shapes.captions import plain
from diffpo.lab.shapes.scenes import Attributes

BASE = torch.tensor([0.6, 0.25, 0.15], dtype=torch.float64)
WINS = count_votes()[:3, :3]
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)


def exact(eta: float, weight: float):
    """A round of the cyclic game, solved exactly."""
    return lambda start, opponent: step_mirror(start, opponent, BASE, WINS, eta, weight)


def caption(position: str) -> str:
    return plain(Attributes("red", "circle", "white", position, "large"))


def test_each_position_beats_one_other_and_loses_to_the_third():
    beats = {(POSITIONS[i], POSITIONS[j]) for i in range(3) for j in range(3) if WINS[i, j] > 0.6}
    assert beats == {("center", "top"), ("top", "left"), ("left", "center")}
    assert WINS[0, 1].item() == pytest.approx(2 / 3)
    assert torch.allclose(WINS + WINS.T, torch.ones_like(WINS))


def test_exploitability_of_known_policies():
    assert exploitability(UNIFORM, WINS) == pytest.approx(0, abs=1e-12)
    for pure in torch.eye(3, dtype=torch.float64):
        assert exploitability(pure, WINS) == pytest.approx(1 / 6)
    assert exploitability(BASE, WINS) == pytest.approx(0.0583, abs=1e-4)


@pytest.mark.parametrize(
    ("eta", "weight", "one_phase", "extragradient"),
    [
        (0.1, 0.05, (0.090, 0.065, 0.100, 0.127, 0.154), (0.060, 0.050, 0.023, 0.032, 0.011)),
        (0.2, 0.0, (0.078, 0.082, 0.071, 0.049, 0.125), (0.070, 0.063, 0.043, 0.035, 0.017)),
        (0.05, 1 / 3, (0.095, 0.128, 0.092, 0.153, 0.131), (0.099, 0.061, 0.084, 0.057, 0.067)),
    ],
)
def test_exploitability_by_steps_of_both_ways(eta, weight, one_phase, extragradient):
    """After 1, 2, 3, 4 and 12 steps; one of the extragradient is two rounds."""
    steps = (1, 2, 3, 4, 12)
    once = play_one_phase(BASE, exact(eta, weight), 12)
    twice = play_extragradient(BASE, exact(eta, weight), 24)
    assert [exploitability(once[n - 1], WINS) for n in steps] == pytest.approx(one_phase, abs=6e-4)
    assert [exploitability(twice[2 * n - 1], WINS) for n in steps] == pytest.approx(extragradient, abs=6e-4)


def test_the_extragradient_ends_at_nash_unless_its_step_is_too_large():
    small, large = (play_extragradient(BASE, exact(*how), 400)[-1] for how in ((0.2, 0.0), (0.05, 1 / 3)))
    assert exploitability(small, WINS) < 5e-4
    assert exploitability(large, WINS) == pytest.approx(0.088, abs=1e-3)


def test_rock_paper_scissors_converges_by_two_phases_alone():
    """Strength 0.01 of a uniform base, step 0.5."""
    wins = torch.tensor([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]], dtype=torch.float64)
    step = partial(step_mirror, base=UNIFORM, wins=wins, eta=2.0, weight=0.005)
    assert torch.allclose(play_extragradient(BASE, step, 4000)[-1], UNIFORM, atol=1e-3)
    assert (play_one_phase(BASE, step, 2000)[-1] - UNIFORM).abs().max() > 0.25


def test_the_judge_reads_positions_and_what_is_at_none_of_them_loses():
    judge = CyclicJudge()
    texts = [caption("center"), caption("top"), caption("bottom"), "no caption"]
    wins = judge.wins(["a red circle:"], [[text] for text in texts])[..., 0]
    expected = [[0.5, 2 / 3, 1, 1], [1 / 3, 0.5, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]
    assert torch.allclose(wins, torch.tensor(expected))
    shares = count_places([*texts, caption("left"), caption("left")])
    assert shares.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])


def test_a_model_is_described_by_the_frequencies_of_its_positions(tmp_path):
    """Of 6 rewrites 3 at the center, 1 at the top, 1 at the left and 1 at neither: each best answer is known."""
    (tmp_path / "asked.txt").write_text("a red circle:\nat the top a red circle:\n")
    evaluation = CyclicRewriting(Prompts(str(tmp_path / "asked.txt")))
    assert evaluation.asked() == ["a red circle:"]
    written = [[caption("center")] * 3, [caption("top"), caption("left"), "no caption"]]
    found = evaluation.describe(written)
    shares = {"center": 1 / 2, "top": 1 / 6, "left": 1 / 6, "elsewhere": 1 / 6}
    assert {name: found[name] for name in shares} == pytest.approx(shares)
    assert found["exploitability"] == pytest.approx((3 * 2 / 3 + 1 / 2 + 1 / 3 + 1) / 6 - 1 / 2)  # of left
    (tmp_path / "asked.txt").write_text("at the top a red circle:\n")
    with pytest.raises(Refusal, match="All 1 prompts name a position"):
        CyclicRewriting(Prompts(str(tmp_path / "asked.txt")))
