from PIL import Image
from tiny import saved

from diffpo.lab.rewrites.drawing import Drawing


def test_a_picture_shows_the_share_of_what_was_asked_not_of_what_was_written(tmp_path):
    """A faithful and an unfaithful rewrite, drawn by the shipped pipeline."""
    drawing = Drawing(steps=10)
    prompts = ["a red circle:", "a blue circle:"]
    rewrites = ["a large red circle in the center, white background"] * 2
    assert drawing(prompts, rewrites, tmp_path) == [1.0, 0.5]
    assert [Image.open(file).size for file in sorted(tmp_path.glob("*.png"))] == [(32, 32)] * 2


def test_pictures_of_two_models_start_from_the_same_noise(tmp_path):
    saved(tmp_path / "base")
    drawing = Drawing(str(tmp_path / "base"), steps=1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawing(["a red circle:"], ["a red circle"], tmp_path / name)
    assert (tmp_path / "a" / "00000.png").read_bytes() == (tmp_path / "b" / "00000.png").read_bytes()
