import pytest
from PIL import Image

from diffpo.lab.figures.reconstruction_plot import plot_reconstruction

pytest.importorskip("matplotlib")


def test_both_panels_are_drawn_with_all_curves(tmp_path):
    def curve(error: float) -> list[dict]:
        return [{"steps": n, "calls": 2 * n, "error": error / n, "low": 0.3 / n, "high": 2 / n} for n in (2, 5, 20)]

    plot_reconstruction({"plain": curve(1.0)}, tmp_path / "one.png")
    plot_reconstruction({"plain": curve(1.0), "refined": curve(0.5)}, tmp_path / "two.png")
    one, two = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("one", "two"))
    assert one.size == two.size == (1000, 380)
    for half in ((0, 0, 500, 380), (500, 0, 1000, 380)):
        blue = [picture.crop(half).get_flattened_data().count((0, 114, 178)) for picture in (one, two)]
        assert blue[0] == 0 < blue[1]
