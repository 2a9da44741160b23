import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.lab.rewrites.page import write_page

VOID = {"meta", "link", "img"}
HOSTILE = '</td><script>alert(1)</script> & "it\'s"'


class Page(HTMLParser):
    """What a browser makes of the file."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.opened, self.cells = [], [], []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened[-1:] != ["style"] and data.strip():
            self.cells.append(" ".join(data.split()))


def evaluated(folder: Path, prompts: int = 2, rewrites: int = 2, models=("base", "tuned")) -> Path:
    """What `Rewriting` leaves: rewrite j of prompt i by model m is "m-i-j" with a score of i + j / 10."""
    entries = {}
    for name in models:
        (folder / name).mkdir(parents=True)
        lines = [
            {"prompt": f"prompt {i} {HOSTILE}", "rewrite": f"{name}-{i}-{j}", "scores": {"oracle": i + j / 10}}
            for i in range(prompts)
            for j in range(rewrites)
        ]
        (folder / name / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        means = {"attributes": 0.75, "style": 0.5, "clean": 1.0, "length": 9.0, "drift": 0.4, "diversity": None}
        scores = {"oracle": {"mean": 0.55, "median": 0.5}}
        entries[name] = {"source": name, "listing": f"{name}/prompts.jsonl", "scores": scores, **means}
    rate = {"win_rate": 0.99, "win_rate_low": 0.975, "win_rate_high": 1.0}
    report = {
        "seed": 7,
        "seconds": 3.0,
        "n_prompts": prompts,
        "rewrites": rewrites,
        "turns": 1,
        "temperature": 1.0,
        "versions": {"torch": "2.13"},
        "scorers": {"oracle": {}},
        "models": entries,
        "pairs": [{"a": a, "b": b, "metric": "oracle", **rate} for j, b in enumerate(models) for a in models[j + 1 :]],
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_rewrites_of_all_models_stand_side_by_side_with_their_scores(tmp_path):
    page = Page(write_page(evaluated(tmp_path)))
    assert page.opened == []
    first = page.cells.index("base-0-0")
    assert page.cells[first : first + 8] == ["base-0-0", "0.000", "base-0-1", "0.100"] + [
        *("tuned-0-0", "0.000", "tuned-0-1", "0.100")
    ]
    assert [cell for cell in page.cells if cell.startswith("prompt ")] == [f"prompt {i} {HOSTILE}" for i in range(2)]
    assert "script" not in {tag for tag, _ in page.tags}


def test_what_was_measured_has_a_column_and_what_was_not_has_none(tmp_path):
    cells = Page(write_page(evaluated(tmp_path))).cells
    assert [name for name in cells if name in ("attributes", "drift", "pictured")] == ["attributes", "drift"]
    assert "0.750" in cells
    assert any("the same prompt and rewrite number" in cell for cell in cells)


def test_more_than_fits_is_left_out_and_told(tmp_path):
    cells = Page(write_page(evaluated(tmp_path, prompts=5, rewrites=4), prompts=3, each=2)).cells
    assert {cell for cell in cells if cell.startswith("base-")} == {
        f"base-{i}-{j}" for i in range(3) for j in range(2)
    }
    assert any("the first 3 of 5 prompts" in cell for cell in cells)


def test_a_single_model_is_shown_without_a_winner(tmp_path):
    cells = Page(write_page(evaluated(tmp_path, models=("only",)))).cells
    assert any("no other model to compare it with" in cell for cell in cells)


def test_curves_of_the_training_are_inside(tmp_path):
    Image.new("RGB", (4, 4)).save(evaluated(tmp_path) / "curves.png")
    [curves] = [about for tag, about in Page(write_page(tmp_path)).tags if tag == "img"]
    assert curves["src"].startswith("data:image/png;base64,")


def test_facts_of_the_run_and_versions_are_told(tmp_path):
    cells = Page(write_page(evaluated(tmp_path))).cells
    assert cells[cells.index("Run") :] == [
        *("Run", "prompts", "2 × 2", "turns", "1", "seed", "7", "temperature", "1.0", "took", "3 s"),
        *("Versions", "torch", "2.13"),
    ]


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no finished evaluation"):
        write_page(tmp_path)
