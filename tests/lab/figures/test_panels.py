import pytest

from diffpo.lab.figures.panels import draw_curve, number_ticks
from diffpo.train.report.figure import open_figure, save_figure

pytest.importorskip("matplotlib")


def test_ticks_of_a_log_axis_are_plain_round_numbers(tmp_path):
    figure, [axes] = open_figure(1)
    axes.set_xscale("log")
    axes.set_xlim(0.9, 30.0)
    number_ticks(axes.xaxis)
    save_figure(figure, tmp_path / "ticks.png")
    inside = [label.get_text() for label in axes.get_xticklabels() if 0.9 <= label.get_position()[0] <= 30.0]
    assert inside == ["1", "2", "5", "10", "20"]


def test_a_point_has_its_interval_as_a_bar():
    _, [axes] = open_figure(1)
    draw_curve(axes, [(1.0, 2.0, 1.5, 4.0), (2.0, 3.0, 2.0, 3.5)], "#222222", "one")
    [line], [bars] = axes.lines, axes.collections
    assert line.get_xydata().tolist() == [[1.0, 2.0], [2.0, 3.0]]
    assert line.get_label() == "one"
    assert [segment.tolist() for segment in bars.get_segments()] == [
        [[1.0, 1.5], [1.0, 4.0]],
        [[2.0, 2.0], [2.0, 3.5]],
    ]
