from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import picture

from diffpo.lab.shapes.oracle import measure
from diffpo.lab.shapes.oracle_check import COUNTS, confusion, read_labels, tile_pictures, tiles, two_objects

SHIPPED = Path("assets/oracle-check")


@pytest.fixture(scope="module")
def judged():
    labels = read_labels(SHIPPED / "labels.csv")
    return labels, [measure(tile) for tile in tiles(Image.open(SHIPPED / "pictures.png"))]


def test_two_hundred_pictures_of_every_kind_are_labelled(judged):
    labels, measured = judged
    assert len(labels) == len(measured) == 200
    assert {kind: sum(label.kind == kind for label in labels) for kind in COUNTS} == COUNTS


def test_the_oracle_sees_what_a_person_sees(judged):
    """Labels were made by looking: at most one in ten of the pictures it accepts has no clean object."""
    agree = [m.right(label.seen) for label, m in zip(*judged, strict=True) if label.seen and m.clean]
    accepted = [label.seen is not None for label, m in zip(*judged, strict=True) if m.clean]
    assert np.mean(agree) > 0.99
    assert np.mean(accepted) > 0.9


def test_samples_of_the_pipeline_are_all_judged_right(judged):
    plain = [(label, m) for label, m in zip(*judged, strict=True) if label.kind == "generated"]
    assert all(m.clean and m.right(label.seen) == 1 for label, m in plain)


def test_noise_and_second_objects_are_refused(judged):
    refused = [not m.clean for label, m in zip(*judged, strict=True) if label.kind in ("noisy", "two objects")]
    assert np.mean(refused) > 0.94


def test_the_shipped_table_is_what_the_oracle_does_now():
    labels, pictures = read_labels(SHIPPED / "labels.csv"), tiles(Image.open(SHIPPED / "pictures.png"))
    assert confusion(labels, pictures) in (SHIPPED / "README.md").read_text()


def test_a_sheet_loses_nothing():
    pictures = [picture(size=(32, 32), seed=i) for i in range(40)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(tiles(tile_pictures(pictures)), pictures, strict=True))


def test_two_objects_stand_on_one_background():
    pixels = np.asarray(two_objects(np.random.default_rng(0)))
    assert (pixels[0] == pixels[-1]).all()
