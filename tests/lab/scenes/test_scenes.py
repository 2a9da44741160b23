from collections import Counter

import numpy as np
import pytest

from diffpo.lab.scenes.scenes import (
    BACKGROUNDS,
    HUES,
    PARTS,
    RELATIONS,
    SHAPES,
    SIZES,
    Facts,
    Objects,
    Thing,
    apart,
    draw_scene,
    holds,
    random_facts,
    random_things,
)


@pytest.mark.parametrize("part", PARTS)
def test_no_scene_is_in_two_parts(part):
    rng = np.random.default_rng(0)
    for _ in range(300):
        facts = random_facts(rng, part)
        assert facts.part == part
        turned = Facts(facts.groups[::-1], None, facts.background)
        assert turned.part == part, "the same scene, told in another order, would be in another part"


def test_a_twelfth_of_all_scenes_is_held_out_twice():
    groups = [(Objects(color, shape, count),) for color in HUES for shape in SHAPES for count in (1, 2)]
    groups += [(one[0], other[0]) for one in groups for other in groups if str(one) < str(other)]
    counted = Counter(Facts(some, background=name).part for some in groups for name in BACKGROUNDS)
    assert counted["training"] / counted.total() == pytest.approx(10 / 12, abs=0.01)
    assert counted["evaluation"] / counted.total() == pytest.approx(1 / 12, abs=0.01)


def test_things_are_apart_inside_the_picture_as_large_and_as_related_as_asked():
    rng = np.random.default_rng(1)
    for _ in range(300):
        facts = random_facts(rng, "training")
        things = random_things(facts, rng)
        assert len(things) == facts.number
        assert all(apart(a, b) for i, a in enumerate(things) for b in things[:i])
        assert all(thing.extent < min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) for thing in things)
        groups = [group for group in facts.groups for _ in range(group.count)]
        for group, thing in zip(groups, things, strict=True):
            assert thing.kind == group.kind
            if group.size:
                assert SIZES[group.size][0] <= thing.extent <= SIZES[group.size][1]
        if facts.relation:
            assert holds(facts.relation, things[0], things[1], 1.5)


@pytest.mark.parametrize(
    ("relation", "x", "y"), [("left of", 0.2, 0.5), ("right of", 0.8, 0.5), ("above", 0.5, 0.2), ("below", 0.5, 0.8)]
)
def test_one_relation_holds_at_a_time(relation, x, y):
    middle, other = Thing("red", "circle", 0.5, 0.5, 0.1), Thing("blue", "square", x, y, 0.1)
    assert [name for name in RELATIONS if holds(name, other, middle)] == [relation]


def test_the_same_seed_draws_the_same_picture():
    facts = Facts((Objects("red", "circle"), Objects("blue", "cross", size="small")), "above", "brown")
    first, second = (np.asarray(draw_scene(facts, np.random.default_rng(3))) for _ in range(2))
    assert first.shape == (48, 48, 3)
    assert np.array_equal(first, second)
