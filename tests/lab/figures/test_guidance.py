import json

import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.lab.figures import guidance as guidance_plot


def sweep(**curves: list[float]) -> dict:
    def points(means: list[float]) -> list[dict]:
        return [{"scale": 2.0**n, "mean": m, "low": m - 1, "high": m + 1} for n, m in enumerate(means)]

    return {"metric": "oracle", "n_prompts": 3, "curves": {name: {"oracle": points(m)} for name, m in curves.items()}}


def test_seeds_are_one_curve_from_their_lowest_to_their_highest():
    curves = sweep(**{"a-0": [1.0, 4.0], "a-1": [3.0, 0.0], "b": [1.0, 1.0]})["curves"]
    assert guidance_plot.by_method(curves, "oracle") == {
        "a": [(1.0, 2.0, 1.0, 3.0), (2.0, 2.0, 0.0, 4.0)],
        "b": [(1.0, 1.0, 0.0, 2.0), (2.0, 1.0, 0.0, 2.0)],
    }


def test_a_report_becomes_a_picture(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"guidance_sweep": sweep(base=[0.1, -0.2], tuned=[0.3, 0.1])}))
    guidance_plot.main(tmp_path / "report.json", tmp_path / "plot.png", floor=0.0)
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (720, 380)
        assert len(picture.convert("RGB").getcolors(1 << 16)) > 8


def test_a_report_without_a_sweep_is_told(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"guidance_sweep": None}))
    with pytest.raises(Refusal, match="tells of no sweep"):
        guidance_plot.main(tmp_path / "report.json", tmp_path / "plot.png")
