from pathlib import Path

import numpy as np
from PIL import Image

from diffpo.lab.scenes.captions import read_caption
from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.oracle_check import (
    COUNTS,
    Label,
    count_agreeing,
    merge_objects,
    read_labels,
    tabulate_confusion,
)
from diffpo.lab.scenes.scenes import RESOLUTION, draw_scene
from diffpo.lab.shapes.oracle_check import tiles


def test_most_merged_objects_are_not_clean():
    rng = np.random.default_rng(0)
    assert np.mean([measure(merge_objects(rng)).clean for _ in range(40)]) < 0.1


def test_agreement_counts_every_fact():
    rng = np.random.default_rng(2)
    facts = read_caption("a red circle left of a blue square, gray background")
    seen = measure(draw_scene(facts, rng))
    assert count_agreeing(seen, facts) == (5, 5)
    assert count_agreeing(seen, read_caption("a red circle right of a blue square, gray background")) == (4, 5)
    assert count_agreeing(seen, read_caption("two red circles, white background")) == (1, 3)


def test_labels_and_the_table_of_confusion(tmp_path):
    (tmp_path / "labels.csv").write_text('kind,seen\ngenerated,"a red circle, gray background"\nmerged,\n')
    labels = read_labels(tmp_path / "labels.csv")
    assert labels == [Label("generated", read_caption("a red circle, gray background")), Label("merged", None)]
    rng = np.random.default_rng(3)
    drawn = draw_scene(labels[0].seen, rng)
    table = tabulate_confusion(labels, [drawn, drawn])
    assert "| generated | 1 | 1 | 0 | 0 | 0 | 3 of 3 |" in table
    assert "| merged | 1 | 0 | 0 | 1 | 0 |  |" in table


def test_the_shipped_table_is_what_the_oracle_says_now():
    folder = Path("assets/scenes-oracle-check")
    labels, pictures = read_labels(folder / "labels.csv"), tiles(Image.open(folder / "pictures.png"), RESOLUTION)
    assert len(labels) == len(pictures) == sum(COUNTS.values())
    assert tabulate_confusion(labels, pictures) in (folder / "README.md").read_text()
