from dataclasses import replace

import numpy as np
import pytest
import tiny

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.data.layouts import PickAPic
from diffpo.data.pairs import PairTable
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.oracle import Measurement
from diffpo.lab.shapes.scenes import EXTENT, VIVIDNESS, Attributes
from diffpo.lab.users.tastes import AXES, Population, Taste, judged_pairs, population, split_prompts, traits, verdicts

SEEN = Attributes("red", "circle", "white", "right", "large")
VIVID = Measurement(True, SEEN, extent=EXTENT[1], vividness=VIVIDNESS[1])
ASKED = Attributes(color="red", shape="circle")
SHARE = 7**-0.5


def judged(pairs: int = 3, viewers: int = 2, users=None, seed: int = 0):
    users = users or population().seen
    return judged_pairs(tiny.pipeline(), split_prompts().training, users, pairs, viewers, steps=1, seed=seed)


def weights(users) -> np.ndarray:
    return np.stack([taste.weights for taste in users.values()])


def test_traits_that_a_prompt_states_do_not_count():
    assert traits(VIVID, Attributes(size="large")).tolist() == pytest.approx([0, 1, 1, 0.9, 1, 0, -1])
    assert traits(VIVID, ASKED).tolist() == pytest.approx([1, 1, 0, 0.9, 1, 0, 0])
    assert not traits(VIVID, replace(SEEN, size=None))[2:].any()


def test_utility_is_the_share_that_is_right_and_the_taste():
    taste = Taste(size=0.6, right=-0.8)
    assert taste.utility(VIVID, ASKED) == pytest.approx(1 + (0.6 - 0.8) * SHARE)
    assert taste.utility(VIVID, Attributes(color="red", shape="cross")) == pytest.approx(0.5 - 0.2 * SHARE)


def test_users_of_opposite_tastes_agree_on_faithfulness_alone():
    one, other = Taste(size=0.6, right=-0.8), Taste(size=-0.6, right=0.8)
    assert one.utility(VIVID, ASKED) + other.utility(VIVID, ASKED) == pytest.approx(2 * VIVID.right(ASKED))


def test_a_picture_without_a_clean_object_loses_to_the_worst_clean_one():
    """All wrong, and as far from the taste as a picture can be."""
    extremes = traits(VIVID, Attributes(size="large")) * [0, 1, 1, 1, 1, 1, 1] + [1, 0, 0, 0, 0, 0, 0]
    worst = Taste(*(-extremes / np.linalg.norm(extremes)).tolist())
    unclean = worst.utility(Measurement(False, Attributes()), ASKED)
    assert unclean == -1 < worst.utility(VIVID, Attributes(position="left"))


def test_a_taste_is_a_direction():
    with pytest.raises(Refusal, match="weights of length 1, .* has 2; divide them"):
        Taste(size=2.0)


def test_every_user_is_followed_by_the_one_of_opposite_taste():
    for users in vars(population()).values():
        assert np.array_equal(weights(users)[::2], -weights(users)[1::2])
        assert len(np.unique(weights(users), axis=0)) == len(users)


@pytest.mark.parametrize("seed", range(4))
def test_no_seen_user_is_near_a_held_out_one_but_all_traits_are_seen(seed):
    """Held-out users mix two traits that no seen user mixes."""
    people = population(seed=seed)
    seen, held_out = weights(people.seen), weights(people.held_out)
    assert np.abs(seen @ held_out.T).max() == pytest.approx(0.5)
    assert (seen > 0).any(0).all()
    assert (seen < 0).any(0).all()
    mixed = [{tuple(np.flatnonzero(row)) for row in part} for part in (seen, held_out)]
    assert not mixed[0] & mixed[1]
    assert {len(axes) for part in mixed for axes in part} == {2}
    assert np.linalg.matrix_rank(seen) == len(AXES)


@pytest.mark.parametrize("number", [3, 0, 30])
def test_there_are_only_so_many_seen_users(number):
    with pytest.raises(Refusal, match=rf"There can be 2, 4, \.\.\. 28 seen users, got {number}"):
        population(number)


def test_tastes_are_read_as_they_were_written(tmp_path):
    population(seed=3).write(tmp_path / "users.json")
    assert Population.read(tmp_path / "users.json") == population(seed=3)
    assert list(population().all) == [*population().seen, *population().held_out]


def test_prompts_state_two_attributes_and_no_two_parts_share_one():
    split = split_prompts()
    parts = [set(part) for part in (split.training, split.development, split.evaluation)]
    assert [len(part) for part in parts] == [99, 20, 30]
    assert len(set.union(*parts)) == 149
    assert all(len(request.stated()) == 2 for request in set.union(*parts))


def test_a_pair_is_shown_to_several_users_and_reads_as_pick_a_pic(tmp_path):
    made = judged(pairs=3, viewers=4)
    made.to_parquet(tmp_path / "train.parquet")
    table = PairTable(PickAPic(str(tmp_path / "train.parquet")), [], seed=0)
    rows = [table[i] for i in range(len(table))]
    assert [row.extra["pair_id"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(len({row.extra["user_id"] for row in rows[i : i + 4]}) == 4 for i in (0, 4, 8))
    assert len({cell for cells in zip(made["jpg_0"], made["jpg_1"], strict=True) for cell in cells}) == 6
    assert {read_image(side.read()).size for row in rows for side in row.candidates} == {(32, 32)}
    assert {read_caption(row.prompts[0]) for row in rows} <= set(split_prompts().training)


def test_a_picture_is_stored_once_for_all_who_see_it(tmp_path):
    for viewers in (1, 24):
        judged(viewers=viewers).to_parquet(tmp_path / f"{viewers}.parquet")
    one, many = ((tmp_path / f"{viewers}.parquet").stat().st_size for viewers in (1, 24))
    assert many < 1.5 * one


def test_pairs_are_the_same_each_time():
    assert judged().to_dict() == judged().to_dict()
    assert judged()["caption"] != judged(seed=1)["caption"]


def test_a_pair_is_not_shown_to_more_users_than_there_are():
    with pytest.raises(Refusal, match="shown to 3 of 2 users"):
        judged(viewers=3, users=population(seen=2).seen)


def test_verdicts_of_opposite_users_differ_and_are_noisy(monkeypatch):
    """Equally faithful pictures whose sizes differ by a sixth of the range: a gap of 0.126 at temperature 0.1."""
    step = (EXTENT[1] - EXTENT[0]) / 6
    shown = {b"large": VIVID, b"small": replace(VIVID, extent=EXTENT[1] - step)}
    monkeypatch.setattr("diffpo.lab.users.tastes.measure_bytes", shown.__getitem__)
    rng, users = np.random.default_rng(0), {"ann": Taste(size=1.0), "bob": Taste(size=-1.0)}
    said = [list(verdicts((b"large", b"small"), ASKED, users, rng, tie=0.2)) for _ in range(200)]
    ann, bob = (np.mean([one[i]["label_0"] for one in said]) for i in (0, 1))
    assert 0.65 < ann < 0.9
    assert 0.1 < bob < 0.35
    assert {one["label_0"] + one["label_1"] for both in said for one in both} == {1}
