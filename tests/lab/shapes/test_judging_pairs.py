import numpy as np
import pytest
from tiny import pipeline

from diffpo.lab.shapes.captions import TRAINING_FAMILIES, plain, read_caption
from diffpo.lab.shapes.judging_pairs import (
    Comparisons,
    against_vivid,
    attempt,
    changed,
    compare_pictures,
    imagined,
    join_comparisons,
    reconstructed,
    sample_comparisons,
    spoiled,
)
from diffpo.lab.shapes.oracle import measure, utility
from diffpo.lab.shapes.scenes import Attributes, Scene, render

RED = Attributes("red", "circle", "white", "left")
SCENES = [RED, Attributes("blue", "cross", "black", "top")]
HURRIED = {"steps": (1,), "guidance": (1.0, 2.0)}


def drawn(vividness: float, extent: float = 0.2, shown: Attributes = RED):
    return render(Scene(shown, (0.3, 0.5), extent, vividness))


def judged(n: int = 3, seed: int = 0) -> Comparisons:
    return compare_pictures(
        [plain(RED)] * n, [RED] * n, ([drawn(0.9)] * n, [drawn(0.5)] * n), np.random.default_rng(seed)
    )


def test_the_gap_is_that_of_the_hidden_utility():
    expected = utility(measure(drawn(0.9)), RED) - utility(measure(drawn(0.5)), RED)
    assert judged().gap == pytest.approx(expected)
    assert expected == pytest.approx(0.4 / 0.55 / 2, abs=0.03)  # vividness is half of the style


def test_a_gap_of_many_temperatures_is_labeled_right_and_none_as_often_wrong_as_right():
    assert (judged(25).prob == 1).mean() > 0.85
    same = compare_pictures([plain(RED)] * 25, [RED] * 25, ([drawn(0.9)] * 25,) * 2, np.random.default_rng(0))
    assert same.gap.tolist() == [0] * 25
    assert same.prob.mean() == pytest.approx(0.5, abs=0.2)
    assert set(same.prob) == {0.0, 0.5, 1.0}


def test_pictures_come_back_from_their_pixels():
    assert judged().pictures(0)[0].tobytes() == drawn(0.9).tobytes()
    assert judged().pictures(1)[2].tobytes() == drawn(0.5).tobytes()


def test_joining_keeps_the_order():
    whole = join_comparisons([judged(2), judged(3, seed=1)])
    assert whole.pixels.shape == (2, 5, 32, 32, 3)
    assert len(whole.prompts) == len(whole.gap) == 5
    assert whole.prob.tolist() == [*judged(2).prob, *judged(3, seed=1).prob]


def test_one_attribute_is_changed():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        name, other = changed(RED, rng)
        seen.add(name)
        assert [key for key, value in RED.stated().items() if getattr(other, key) != value] == [name]
        assert other.size is None
    assert seen == {"color", "shape", "background", "position"}


def test_attempts_are_often_right_sometimes_wrong_and_seldom_spoiled():
    rng = np.random.default_rng(0)
    seen = [measure(attempt(RED, rng)) for _ in range(120)]
    right = [m.right(RED) for m in seen if m.clean]
    assert 0.8 < len(right) / 120 < 0.98
    assert np.mean(np.array(right) == 1) == pytest.approx(0.7, abs=0.1)
    assert np.mean(np.array(right) == 0.75) == pytest.approx(0.3, abs=0.12)


def test_a_stated_size_is_kept():
    rng = np.random.default_rng(0)
    small = Attributes("red", "square", "white", "left", "small")
    extents = [m.extent for m in (measure(attempt(small, rng)) for _ in range(40)) if m.clean and m.right(small) == 1]
    assert max(extents) < 0.2


def test_spoiled_pictures_seldom_pass_the_oracle():
    rng = np.random.default_rng(0)
    assert np.mean([measure(spoiled(drawn(0.9), rng)).clean for _ in range(40)]) < 0.5


def test_pictures_go_through_the_vae_in_chunks(monkeypatch):
    monkeypatch.setattr("diffpo.lab.shapes.judging_pairs.CHUNK", 2)
    made = reconstructed(pipeline(), [drawn(0.9), drawn(0.7), drawn(0.5)], np.random.default_rng(0))
    assert [picture.size for picture in made] == [(32, 32)] * 3


def test_imagined_pairs_depend_on_their_seed_alone():
    one, same, other = (imagined(pipeline(), SCENES, 6, TRAINING_FAMILIES, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.pixels, same.pixels)
    assert one.prompts == same.prompts
    assert not np.array_equal(one.pixels, other.pixels)


def test_samples_are_of_the_scenes_and_the_sides_differ():
    made = sample_comparisons(pipeline(), SCENES, 4, TRAINING_FAMILIES, first_seed=7, habits=HURRIED)
    asked = {(a.color, a.position) for a in map(read_caption, made.prompts)}
    assert asked <= {("red", "left"), ("blue", "top")}
    assert not np.array_equal(*made.pixels)


def test_against_vivid_keeps_the_first_picture():
    known = judged(2)
    both = against_vivid(pipeline(), known, seed=0)
    assert np.array_equal(both.pixels[0], known.pixels[0])
    assert both.prompts == known.prompts
