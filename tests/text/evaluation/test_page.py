"""The page of a comparison of models that write."""

import json

import pytest

from diffpo.core.refusal import Refusal
from diffpo.text.evaluation.page import write_text_page

HOSTILE = "</td><script>alert(1)</script>"


def evaluated(folder, models=("base", "tuned")):
    """Answer j of prompt i by model m is "m-i-j"."""
    entries = {}
    for name in models:
        (folder / name).mkdir()
        lines = [
            {
                "prompt": f"prompt {i} {HOSTILE}",
                "answer": f"{name}-{i}-{j}",
                "scores": {"reward": i + j / 10, "judge": 0.5},
            }
            for i in range(2)
            for j in range(2)
        ]
        (folder / name / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        scores = {metric: {"mean": 0.55, "median": 0.5} for metric in ("reward", "judge")}
        entries[name] = {"source": name, "listing": f"{name}/prompts.jsonl", "scores": scores, "length": 9.0}
    rate = {"win_rate": 0.99, "win_rate_low": 0.975, "win_rate_high": 1.0, "lengths": [12.0, 9.0], "longer": 0.75}
    pairs = [{"a": "tuned", "b": "base", "metric": metric} | rate for metric in ("reward", "judge")]
    report = {"seed": 7, "seconds": 3.0, "n_prompts": 2, "answers": 2, "temperature": 1.0, "versions": {"torch": "2"}}
    report |= {"scorers": {"reward": {}, "judge": {}}, "models": entries, "warnings": ["cut"]}
    (folder / "report.json").write_text(json.dumps(report | {"pairs": pairs if len(models) > 1 else []}))
    return folder


def test_lengths_stand_beside_every_win_rate(tmp_path):
    page = write_text_page(evaluated(tmp_path)).read_text("utf-8")
    rows = page.split('id="rates"')[1].split("</table>")[0].split("<tr>")[2:]
    assert len(rows) == 2
    assert all("97.5" in row and "12 : 9" in row and "75.0" in row for row in rows)
    assert "tuned-1-1" in page
    assert HOSTILE not in page
    assert '<li dir="auto">cut</li>' in page


def test_a_model_alone_has_no_win_rates(tmp_path):
    assert 'id="rates"' not in write_text_page(evaluated(tmp_path, ("base",))).read_text("utf-8")


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no finished evaluation"):
        write_text_page(tmp_path)
