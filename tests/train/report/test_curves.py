import json

import pytest
from PIL import Image

from diffpo.train.report import curves as module
from diffpo.train.report import figure
from diffpo.train.report.curves import LENGTH, PANELS, correlate, curves_of, draw_curves, read_curves

LINES = [
    {"step": 10, "loss": 0.7, "rewards/margins": 0.0},
    {"step": 10, "validation/loss": 0.6},
    {"step": 20, "loss": 0.5, "rewards/margins": 1.0},
    {"step": 20, "validation/loss": 0.65},
]


def logged(folder, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_steps_that_a_resumed_run_has_repeated_count_once_as_they_were_last(tmp_path):
    logged(tmp_path, [*LINES, {"step": 10, "loss": 0.9}, {"step": 30, "loss": 0.4}])
    assert read_curves(tmp_path / "metrics.jsonl")["loss"] == [(10, 0.9), (20, 0.5), (30, 0.4)]


def test_a_line_that_was_cut_is_told_and_left_out(tmp_path, caplog):
    file = logged(tmp_path, LINES) / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 30, "lo')
    assert read_curves(file)["loss"] == [(10, 0.7), (20, 0.5)]
    assert "Line 5" in caplog.text


def test_held_out_pairs_are_drawn_beside_those_of_training(tmp_path):
    read = read_curves(logged(tmp_path, LINES) / "metrics.jsonl")
    assert list(curves_of(PANELS[0], read)) == [
        ("loss", [(10, 0.7), (20, 0.5)], False),
        ("loss, held-out pairs", [(10, 0.6), (20, 0.65)], True),
    ]


@pytest.mark.parametrize(
    ("name", "label"), [("validation/capability/loss", "capability loss"), ("validation/shift", "shift")]
)
def test_what_validation_alone_measures_has_a_panel_of_its_own(tmp_path, name, label):
    read = read_curves(logged(tmp_path, [{"step": 10, name: 0.0}, {"step": 20, name: 0.25}]) / "metrics.jsonl")
    [panel] = [panel for panel in PANELS if any(name in read for name in panel.names)]
    assert panel.title.startswith(label)
    assert list(curves_of(panel, read)) == [(label, [(10, 0.0), (20, 0.25)], False)]


def test_a_picture_has_a_panel_for_what_was_logged_and_the_same_bytes_again(tmp_path):
    pytest.importorskip("matplotlib")
    folder = logged(tmp_path, LINES)
    assert draw_curves(folder) == ""
    first = (folder / "curves.png").read_bytes()
    assert Image.open(folder / "curves.png").size == (1000, 380)  # loss and margin, side by side
    draw_curves(folder)
    assert (folder / "curves.png").read_bytes() == first


def test_without_matplotlib_a_line_says_what_is_missing_and_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_drawable", lambda: False)
    assert "pip install 'diffpo[figures]'" in draw_curves(logged(tmp_path, LINES))
    assert not (tmp_path / "curves.png").exists()
    monkeypatch.setattr(figure, "is_drawable", lambda: False)
    with pytest.raises(ValueError, match="matplotlib, which is not installed"):
        figure.open_figure(1)


def test_a_run_without_metrics_has_no_curves(tmp_path):
    assert draw_curves(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_correlation_with_length_is_made_of_its_moments():
    def moments(both: float, margin: float, longer: float) -> dict:
        numbers = {"margin_by_difference": both, "margin_square": margin, "difference_square": longer}
        return {f"length/{name}": [(5, number)] for name, number in numbers.items()}

    assert correlate(moments(-3.0, 4.0, 9.0))[LENGTH] == [(5, -0.5)]
    assert correlate(moments(0.0, 0.0, 9.0))[LENGTH] == [(5, 0.0)]
    assert correlate({"loss": [(5, 1.0)]}) == {"loss": [(5, 1.0)]}


def test_no_title_reaches_into_the_next_panel(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: drawn.append(figure))
    names = {name: float(n) for n, name in enumerate(name for panel in PANELS for name in panel.names)}
    draw_curves(logged(tmp_path, [{"step": 10} | names, {"step": 20} | names]))
    [figure] = drawn
    figure.draw_without_rendering()
    titles = [pair.title.get_window_extent() for pair in figure.axes]
    assert len(titles) > 3
    assert not any(one.overlaps(other) for n, one in enumerate(titles) for other in titles[:n])
    assert all(0 <= title.x0 < title.x1 <= figure.bbox.width for title in titles)
