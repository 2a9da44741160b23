import datasets
import pytest
from PIL import Image
from shards import png
from tiny_speakers import Colors, Shouted

from diffpo.annotators.captioners.roles import Captioner, Interrupted, Perturber, Strategy, Strength
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.rows import Reverse
from diffpo.diffusion.annotate.caption_texts import Plan, Texts, ask_patiently, key
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 200, 0)


def texts_of(tmp_path, plan, rows=None, maps=(), name="work"):
    """Of pairs of prompts and two colors (or bytes)."""
    rows = rows or [("p", RED, BLUE), ("q", RED, RED), ("q", RED, GREEN)]
    prompts, chosen, rejected = zip(*rows, strict=True)
    sides = [[c if isinstance(c, bytes) else png(c) for c in side] for side in (chosen, rejected)]
    data = {"prompt": prompts, "chosen": sides[0], "rejected": sides[1], "old": [f"old {p}" for p in prompts]}
    datasets.Dataset.from_dict(data | {"none": [None, " ", ""][: len(rows)]}).to_parquet(tmp_path / "a.parquet")
    pairs = PairsInOrder(Columns(str(tmp_path / "a.parquet")), list(maps))
    return Texts(pairs, plan, tmp_path / name, {"of": "test"}, batch_size=2)


def captions(texts) -> list[str | None]:
    return [text["caption"] for text in texts.all().values()]


def test_both_pictures_get_captions_and_the_raw_answers_are_kept(tmp_path):
    texts = texts_of(tmp_path, Plan(Strategy.caption, Colors())).all()
    said = [text["caption"] for text in texts.values()]
    assert said == ["255 in red", "0 in red", "255 in red", "255 in red", "255 in red", "0 in red"]
    assert texts[0] == {"caption": "255 in red", "raw": "255 in\nred", "perturbed_from": None}


def test_the_winner_keeps_its_prompt_and_the_losers_is_perturbed(tmp_path):
    texts = texts_of(tmp_path, Plan(Strategy.perturb, perturber=Shouted(), strength=Strength.medium)).all()
    assert texts[0] == {"caption": "p", "raw": None, "perturbed_from": None}
    assert texts[1] == {"caption": "P!!", "raw": "P!!", "perturbed_from": "p"}


def test_hybrid_perturbs_the_losers_caption_and_the_ablation_the_winners(tmp_path):
    for strategy, loser in ((Strategy.hybrid, "0 IN RED!"), (Strategy.hybrid_of_winner, "255 IN RED!")):
        captioner = Colors()
        texts = texts_of(tmp_path, Plan(strategy, captioner, Shouted()), name=strategy.name)
        assert captions(texts)[:2] == ["255 in red", loser]
        assert len({color for color, *_ in captioner.asked}) == (3 if strategy is Strategy.hybrid else 1)


def test_captions_of_an_earlier_run_can_be_perturbed(tmp_path):
    plan = Plan(Strategy.perturb, perturber=Shouted(), columns=("prompt", "old"))
    assert captions(texts_of(tmp_path, plan))[:2] == ["p", "OLD P!"]
    turned = texts_of(tmp_path, plan, maps=[Reverse()], name="turned")
    assert captions(turned)[:2] == ["old p", "P!"]
    with pytest.raises(Refusal, match="columns names 'caption_chosen', row 0 has no such column .*--strategy cap"):
        texts_of(tmp_path, Plan(Strategy.perturb, None, Shouted(), columns=("caption_chosen",) * 2), name="x").all()


def test_nothing_to_perturb_is_null_and_not_asked_about(tmp_path):
    perturber = Shouted()
    texts = texts_of(tmp_path, Plan(Strategy.perturb, perturber=perturber, columns=("none", "none")))
    assert captions(texts) == [None] * 6
    assert perturber.asked == []


def test_the_same_pixels_and_prompt_are_asked_about_once(tmp_path):
    captioner = Colors()
    texts_of(tmp_path, Plan(Strategy.caption, captioner)).all()
    assert sorted(asked[:2] for asked in captioner.asked) == [(BLUE, "p"), (GREEN, "q"), (RED, "p"), (RED, "q")]


def test_a_key_is_of_pixels_and_prompt():
    red, blue = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    wide = Image.new("RGB", (8, 2), "red")
    assert key(red, "a") == key(red.copy(), "a")
    assert len({key(red, "a"), key(red, "b"), key(blue, "a"), key(wide, "a")}) == 4


def test_a_torn_picture_has_no_caption(tmp_path):
    texts = texts_of(tmp_path, Plan(Strategy.hybrid, Colors(), Shouted()), [("p", b"torn", BLUE), ("q", RED, b"torn")])
    assert captions(texts) == [None, "0 IN RED!", "255 in red", None]
    assert texts.captions[0] == {"raw": None, "retried": 0}


def test_an_empty_answer_is_asked_for_again_with_another_seed(tmp_path):
    patient = Colors(silent=2)
    texts = texts_of(tmp_path, Plan(Strategy.caption, patient))
    assert captions(texts)[5] == "0 in red"
    assert texts.captions[5]["retried"] == 2
    seeds = [seed for color, _, seed in patient.asked if color == GREEN]
    assert len(set(seeds)) == len(seeds) == 3
    assert captions(texts_of(tmp_path, Plan(Strategy.caption, Colors(silent=2), retries=1), name="x"))[5] is None


def test_rows_have_the_same_seeds_in_any_batch_and_other_ones_for_another_seed(tmp_path):
    asked = []
    for seed, rows in ((0, None), (0, [("p", RED, BLUE)]), (1, None)):
        perturber = Shouted()
        texts_of(tmp_path, Plan(Strategy.perturb, None, perturber, seed=seed), rows, name=str(len(asked))).all()
        asked.append(perturber.asked[0])
    assert asked[0] == asked[1] != asked[2]


class Failing(Perturber):
    identity = {}  # noqa: RUF012

    def __call__(self, texts, strength, seeds):
        raise Interrupted("gone", {i: text for i, text in enumerate(texts) if text != "q"})


def test_what_an_endpoint_said_before_it_was_gone_is_not_asked_for_again(tmp_path):
    with pytest.raises(Interrupted, match="gone"):
        texts_of(tmp_path, Plan(Strategy.perturb, None, Failing())).all()
    perturber = Shouted()
    texts = texts_of(tmp_path, Plan(Strategy.perturb, None, perturber))
    assert captions(texts) == ["p", "p", "q", "Q!", "q", "Q!"]
    assert [text for text, _ in perturber.asked] == ["q", "q"]


def test_only_what_was_empty_is_asked_again():
    asked = []

    def say(items, seeds):
        asked.append(list(items))
        return ["" if item == "b" else item for item in items]

    found = list(ask_patiently(["a", "b"], say, Draws(0, (0, 0), (0, 1)), retries=1))
    assert found == [{0: {"raw": "a", "retried": 0}}, {1: {"raw": "", "retried": 1}}]
    assert asked == [["a", "b"], ["b"]]


def test_a_strategy_without_whom_it_needs_is_refused():
    with pytest.raises(Refusal, match="Strategy caption needs a captioner; name one"):
        Plan(Strategy.caption)
    with pytest.raises(Refusal, match="Strategy hybrid needs a perturber; name one"):
        Plan(Strategy.hybrid, Colors())


def test_only_those_who_are_asked_count():
    first = Plan(Strategy.caption, Colors())
    second = Plan(Strategy.caption, Colors(), Shouted(), Strength.strong)
    assert first.identity == second.identity
    assert isinstance(first.speakers[0], Captioner)


def test_texts_to_perturb_go_through_the_door(tmp_path):
    data = {
        "prompt": [["p", "q"]],
        "chosen": [png(RED)],
        "rejected": [png(BLUE)],
        "old": [["\ufeffo", "n"]],
        "number": [7],
    }
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    pairs = PairsInOrder(Columns(str(tmp_path / "a.parquet")))
    for columns, text in ((None, "P!"), (("old", "old"), "O!")):
        plan = Plan(Strategy.perturb, None, Shouted(), columns=columns)
        assert captions(Texts(pairs, plan, tmp_path / text, {}, batch_size=2))[1] == text
    plan = Plan(Strategy.perturb, None, Shouted(), columns=("number", "number"))
    with pytest.raises(Refusal, match="^Row 0 has number = 7, of type int; a prompt is a text"):
        plan.original(pairs[0], 0)
