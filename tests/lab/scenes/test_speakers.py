import numpy as np
import pytest
from PIL import Image

from diffpo.annotators.captioners.roles import Strength
from diffpo.lab.scenes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES, plain, read_caption
from diffpo.lab.scenes.oracle import SeenScene, judge, measure
from diffpo.lab.scenes.scenes import Thing, draw_scene, random_facts
from diffpo.lab.scenes.speakers import SceneCaptioner, SceneParaphraser, state_facts


@pytest.fixture(scope="module")
def scenes() -> list:
    rng = np.random.default_rng(3)
    return [random_facts(rng, "training") for _ in range(60)]


def test_captions_are_true(scenes):
    rng = np.random.default_rng(0)
    pictures = [draw_scene(facts, rng) for facts in scenes]
    captions = SceneCaptioner()(pictures, [""] * 60, range(60))
    for picture, caption in zip(pictures, captions, strict=True):
        verdict = judge(measure(picture), read_caption(caption))
        assert all(right for values in verdict.values() for right in values), caption
    assert not any(caption.startswith("with ") for caption in captions)
    assert EVALUATION_FAMILY(scenes[0]).startswith("with ")


def test_clear_relations_are_told(scenes):
    rng = np.random.default_rng(1)
    related = [facts for facts in scenes if facts.relation]
    told = [state_facts(measure(draw_scene(facts, rng))) for facts in related]
    assert all(facts and facts.relation for facts in told)


def test_nothing_is_said_of_a_picture_without_objects():
    assert SceneCaptioner()([Image.new("RGB", (48, 48))], [""], [0]) == [""]


def test_more_than_two_of_a_kind_are_not_counted():
    three = tuple(Thing("red", "circle", x, 0.5, 0.13) for x in (0.2, 0.5, 0.8))
    assert state_facts(SeenScene(three, "white")) is None


@pytest.mark.parametrize("family", TRAINING_FAMILIES)
def test_a_weak_paraphrase_states_the_same_in_other_words(scenes, family):
    texts = [family(facts) for facts in scenes]
    said = SceneParaphraser()(texts, Strength.weak, range(60))
    for text, words in zip(texts, said, strict=True):
        assert words != text
        assert plain(read_caption(words)) in same(read_caption(text))


def same(facts) -> set[str]:
    """All families speak of the same facts, some from the other end."""
    return {plain(read_caption(family(facts))) for family in TRAINING_FAMILIES}


def test_stronger_ones_state_something_else(scenes):
    texts = [plain(facts) for facts in scenes]
    for strength in (Strength.medium, Strength.strong):
        said = SceneParaphraser()(texts, strength, range(60))
        wrong = [plain(read_caption(w)) not in same(f) for w, f in zip(said, scenes, strict=True)]
        assert np.mean(wrong) > 0.8  # a fact drawn anew may be the old one
