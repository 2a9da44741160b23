import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.page import write_page
from diffpo.train.report.page import Against, decimals, verdict

VOID = {"meta", "link", "input", "br", "img"}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"quoted\" 'and' &amp; <!-- قطة \u2028",
]


class Page(HTMLParser):
    """What a browser makes of the file: elements with attributes, text outside of scripts, JSON inside of them."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements, self.opened, self.text, self.scripts = [], [], "", {}
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened[-1:] == ["script"]:
            self.scripts[self.elements[-1][1].get("id", "code")] = data
        elif self.opened[-1:] != ["style"]:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def json(self, name):
        return json.loads(self.scripts[name])

    def pictures(self) -> list[Image.Image | None]:
        return [found and Image.open(io.BytesIO(decoded(found["source"]))) for found in self.json("pictures")]


def decoded(source: str) -> bytes:
    return base64.b64decode(source.split("base64,")[1])


def noise(seed: int, *size: int) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def evaluated(
    folder: Path, prompts=("a red dot", "a blue dot"), models=("base", "tuned"), pictures=1, size=(32, 32), **changes
) -> Path:
    """What an evaluation leaves: the i-th picture of the m-th model has the score i + m / 10."""
    n = len(prompts) * pictures
    for m, name in enumerate(models):
        (folder / name).mkdir(parents=True)
        lines = []
        for i in range(n):
            noise(100 * m + i, *size).save(folder / name / f"{i:05d}.png")
            scores = {"clip": i + m / 10, "oracle": None if i == 1 else 0.5}
            lines.append({"prompt": prompts[i // pictures], "file": f"{i:05d}.png", "seed": 7 + i, "scores": scores})
        (folder / name / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    entry = {"source": "tiny", "guidance": 2.5, "diversity": None, "unreadable": 0}
    scores = {"clip": {"mean": 0.5, "median": 0.5}, "oracle": {"mean": 0.5, "median": 0.5}}
    identity = {"scorer": "CLIPScore", "model_id": "openai/clip", "version": "cosine", "raw": False}
    rate = {"win_rate": 0.99, "win_rate_low": 0.975, "win_rate_high": 1.0}
    pairs = [{"a": a, "b": b, "metric": "clip", **rate} for j, b in enumerate(models) for a in models[j + 1 :]]
    report = {
        "seed": 7,
        "n_prompts": len(prompts),
        "pictures": pictures,
        "guidance": 2.5,
        "steps": 25,
        "seconds": 3.0,
        "versions": {"torch": "2.6"},
        "scorers": {"clip": identity, "oracle": identity},
        "warnings": [],
        "models": {
            name: {**entry, "folder": name, "listing": f"{name}/prompts.jsonl", "scores": scores} for name in models
        },
        "pairs": pairs + [{**pair, "metric": "oracle", "win_rate": 0.5, "win_rate_low": 0.4} for pair in pairs],
        "guidance_sweep": None,
    }
    (folder / "report.json").write_text(json.dumps(report | changes))
    return folder


def test_all_elements_are_closed_and_the_three_scripts_are_whole(tmp_path):
    page = Page(write_page(evaluated(tmp_path)))
    assert page.opened == []
    assert set(page.scripts) == {"numbers", "pictures", "code"}


def test_curves_of_the_training_are_inside_where_there_are_some(tmp_path):
    assert "Training" not in Page(write_page(evaluated(tmp_path))).words
    noise(0, 20, 10).save(tmp_path / "curves.png")
    page = Page(write_page(tmp_path))
    assert "Training" in page.words
    [source] = [found["src"] for tag, found in page.elements if tag == "img"]
    assert decoded(source) == (tmp_path / "curves.png").read_bytes()


@pytest.mark.parametrize(("guidance", "told"), [(2.5, "2.5"), (None, "differs, see below")])
def test_facts_of_the_run_and_versions_are_told(tmp_path, guidance, told):
    words = Page(write_page(evaluated(tmp_path, guidance=guidance))).words
    facts = f"Run prompts2 × 1 seed7 steps25 guidance{told} took3 s Versions torch2.6"
    assert facts in " ".join(words.split())


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = Page(write_page(evaluated(tmp_path)))
    linked = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert linked == ["data:,"]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|\bimport\b", page.source)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_ids_that_the_scripts_ask_for_are_there(tmp_path):
    sweep = {"n_prompts": 3, "pictures": 1, "metric": "clip", "chosen": {"base": 2.5}, "curves": {"base": {}}}
    page = Page(write_page(evaluated(tmp_path, guidance_sweep=sweep)))
    asked = set(re.findall(r'byId\("([\w-]+)"\)', page.scripts["code"]))
    assert asked <= {attributes.get("id") for _, attributes in page.elements}


def test_hostile_text_stays_text(tmp_path):
    models = ["a<b>", '"c"&\'d']
    page = Page(write_page(evaluated(tmp_path, HOSTILE, models, warnings=HOSTILE)))
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in page.elements}
    assert [row["prompt"] for row in page.json("numbers")["rows"]] == HOSTILE
    assert all(text in page.text for text in [*HOSTILE, *models])


def test_every_picture_is_embedded_once_prompt_by_prompt_model_by_model(tmp_path):
    evaluated(tmp_path, pictures=2)
    page = Page(write_page(tmp_path))
    stored = [(tmp_path / name / f"{i:05d}.png").read_bytes() for i in range(4) for name in ("base", "tuned")]
    assert [decoded(found["source"]) for found in page.json("pictures")] == stored
    assert all(page.source.count(base64.b64encode(content).decode()) == 1 for content in stored)


def test_numbers_are_those_of_the_files_in_their_order(tmp_path):
    numbers = Page(write_page(evaluated(tmp_path, pictures=2, models=("sft", "base")))).json("numbers")
    assert numbers["models"] == ["sft", "base"]
    assert numbers["scores"]["clip"] == [[0, 1, 2, 3], [0.1, 1.1, 2.1, 3.1]]
    assert numbers["scores"]["oracle"][0] == [0.5, None, 0.5, 0.5]
    assert [row["seeds"] for row in numbers["rows"]] == [[7, 7], [8, 8], [9, 9], [10, 10]]
    assert numbers["pairs"][0]["a"] == "base"


def test_verdicts_are_sentences_in_percent(tmp_path):
    words = Page(write_page(evaluated(tmp_path))).words
    assert "tuned beats base on 99.0 % [97.5, 100.0] of comparisons by clip." in words
    assert "No clear winner by oracle: base comes first. Undecided against tuned: 50.0 % [0.0, 60.0]." in words


def test_a_leader_takes_over_the_mirrored_rates():
    pair = {"a": "x", "b": "y", "metric": "clip", "win_rate": 0.2, "win_rate_low": 0.1, "win_rate_high": 0.4}
    said = verdict({"models": {"x": {}, "y": {}}, "pairs": [pair]}, "clip")
    (other,) = said.beaten
    assert (said.leader, other) == ("y", Against("x", 0.8, 0.6, 0.9))


def test_a_single_model_has_no_verdict_to_give(tmp_path):
    page = Page(write_page(evaluated(tmp_path, models=("only",))))
    assert "there is no other model to compare it with" in page.words
    assert "matrix" not in {attributes.get("id") for _, attributes in page.elements}


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:60])])
def test_a_picture_that_cannot_be_read_leaves_the_others_in_place(tmp_path, damage):
    evaluated(tmp_path)
    damage(tmp_path / "tuned" / "00000.png")
    page = Page(write_page(tmp_path))
    assert [found is None for found in page.pictures()] == [False, True, False, False]
    assert page.json("numbers")["rows"][0]["files"] == ["00000.png", "00000.png"]


def test_large_pictures_become_thumbnails_of_the_same_shape(tmp_path):
    page = Page(write_page(evaluated(tmp_path, size=(400, 200)), side=100))
    assert {(picture.format, picture.size) for picture in page.pictures()} == {("WEBP", (100, 50))}
    assert [(found["width"], found["height"]) for found in page.json("pictures")] == [(100, 50)] * 4


def test_pictures_elsewhere_are_found_and_small_jpegs_kept_without_further_loss(tmp_path):
    evaluated(tmp_path / "out", ["a dot"])
    noise(0, 64, 48).save(tmp_path / "elsewhere.jpg")
    line = {"prompt": "a dot", "file": str(tmp_path / "elsewhere.jpg"), "seed": None, "scores": {}}
    (tmp_path / "out" / "base" / "prompts.jsonl").write_text(json.dumps(line) + "\n")
    page = Page(write_page(tmp_path / "out"))
    assert np.array_equal(page.pictures()[0], Image.open(tmp_path / "elsewhere.jpg"))
    assert "not drawn here" in page.words


def test_more_prompts_than_the_gallery_holds_are_noticed_and_still_counted(tmp_path):
    evaluated(tmp_path, ["a", "b", "c"], pictures=2)
    page = Page(write_page(tmp_path, rows=5))
    numbers = page.json("numbers")
    assert [row["prompt"] for row in numbers["rows"]] == ["a", "a", "b", "b"]
    assert len(page.json("pictures")) == 8
    assert len(numbers["scores"]["clip"][0]) == 6
    assert "the first 2 of 3 prompts are shown" in page.words
    assert "prompts are shown" not in Page(write_page(tmp_path)).words


def test_warnings_stand_before_the_verdict(tmp_path):
    words = Page(write_page(evaluated(tmp_path, warnings=["clip labelled the pairs."]))).words
    assert words.index("clip labelled the pairs.") < words.index("Verdict")


def test_what_is_no_number_reaches_no_browser(tmp_path):
    evaluated(tmp_path)
    file = tmp_path / "base" / "prompts.jsonl"
    file.write_text(file.read_text().replace("0.0", "NaN"))
    assert Page(write_page(tmp_path)).json("numbers")["scores"]["clip"] == [[None, 1], [0.1, 1.1]]


@pytest.mark.parametrize(
    ("numbers", "digits"), [([20.1, 22.2], 2), ([0.271, 0.276], 5), ([0.0, 900.0], 0), ([3.0, None], 3)]
)
def test_decimals_show_three_digits_of_the_spread(numbers, digits):
    assert decimals(numbers) == digits


def test_a_folder_without_evaluation_is_told_with_the_remedy(tmp_path):
    with pytest.raises(Refusal, match=r"holds no finished evaluation .* run scripts/evaluate.py first"):
        write_page(tmp_path)


def test_aspects_of_both_worlds_are_columns(tmp_path):
    folder = evaluated(tmp_path)
    report = json.loads((folder / "report.json").read_text())
    for model in report["models"].values():
        model |= {"facts": 0.8125, "whole": 0.4375}
    (folder / "report.json").write_text(json.dumps(report))
    source = Page(write_page(folder)).source
    assert all(f'class="number">{said}<' in source for said in ("facts", "whole"))
    assert source.count(">81.2") == source.count(">43.8") == len(report["models"])
