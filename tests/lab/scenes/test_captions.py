from dataclasses import replace

import numpy as np
import pytest

from diffpo.core.refusal import Refusal
from diffpo.lab.scenes.captions import (
    EVALUATION_FAMILY,
    TRAINING_FAMILIES,
    leave_out,
    misstate,
    noisy_caption,
    read_caption,
)
from diffpo.lab.scenes.scenes import INVERSE, Facts, random_facts


def same(told: Facts, facts: Facts) -> bool:
    turned = replace(facts, groups=facts.groups[::-1], relation=facts.relation and INVERSE[facts.relation])
    return told in (facts, turned)


@pytest.mark.parametrize("family", [*TRAINING_FAMILIES, EVALUATION_FAMILY])
def test_what_a_caption_states_is_read_back(family):
    rng = np.random.default_rng(0)
    for _ in range(300):
        facts = random_facts(rng, "training")
        for some in (facts, replace(facts, background=None), replace(facts, relation=None)):
            assert same(read_caption(family(some)), some), family(some)


def test_no_family_says_what_another_says():
    facts = random_facts(np.random.default_rng(0), "training")
    assert len({family(facts) for family in (*TRAINING_FAMILIES, EVALUATION_FAMILY)}) == 6


@pytest.mark.parametrize("caption", ["", "a picture", "red, a circle", "a red house"])
def test_a_caption_without_objects_is_refused(caption):
    with pytest.raises(Refusal, match="is no caption of the scenes"):
        read_caption(caption)


def test_training_captions_are_as_noisy_as_they_say():
    rng = np.random.default_rng(1)
    n, empty, false, lacking = 3000, 0, 0, 0
    for _ in range(n):
        facts = random_facts(rng, "training")
        if not (caption := noisy_caption(facts, rng)):
            empty += 1
            continue
        told = read_caption(caption)
        if same(told, facts):
            continue
        stated = {group.kind for group in told.groups} <= {group.kind for group in facts.groups}
        whole = told.background is not None and len(told.groups) == len(facts.groups)
        lost = stated and (not whole or (facts.relation is not None and told.relation is None))
        lacking, false = lacking + lost, false + (not lost)
    assert abs(empty / n - 0.1) < 0.02
    assert abs(lacking / n - 0.1) < 0.02
    assert 0.03 < false / n < 0.06, "one in twenty, but for backgrounds that are drawn right by chance"


def test_a_fact_is_left_out_or_wrong_and_no_more():
    rng = np.random.default_rng(2)
    for _ in range(200):
        facts = random_facts(rng, "training")
        assert leave_out(facts, rng) != facts
        wrong = misstate(facts, rng)
        changed = [
            wrong.groups != facts.groups,
            wrong.relation != facts.relation,
            wrong.background != facts.background,
        ]
        assert sum(changed) <= 1
