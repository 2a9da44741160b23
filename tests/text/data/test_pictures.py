from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import draws
from tiny_eyes import held

from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.rows import PairRow
from diffpo.text.data.pictures import CorruptedPicture, Crop, PictureAnswer, PictureColumns

LEFT_TO_RIGHT = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (50, 1))).convert("RGB")
PICTURE = held(LEFT_TO_RIGHT)


def row(chosen: str = "red", rejected: str = "blue") -> PairRow:
    return PairRow(7, ("what color?",) * 2, (chosen, rejected), extra={"image": PICTURE, "other": PICTURE})


def test_both_answers_see_the_picture_and_the_chosen_one_is_repeated_about_its_crop():
    made = CorruptedPicture()(row(), draws(1))
    chosen, rejected, corrupted = made.candidates
    assert [candidate.text for candidate in made.candidates] == ["red", "blue", "red"]
    assert chosen.picture == rejected.picture == corrupted.picture == row().extra["image"]
    assert chosen.crop is None
    assert rejected.crop is None
    assert 0.01 <= corrupted.crop.share <= 0.2
    assert made.prompts == ("what color?",) * 3
    assert made.scores == (0.0, 0.0, 0.0)


def test_the_crop_belongs_to_the_row():
    crop = CorruptedPicture()(row(), draws(1)).candidates[2].crop
    assert CorruptedPicture()(row(), draws(1)).candidates[2].crop == crop
    assert CorruptedPicture()(row(), replace(draws(1), row=(5,))).candidates[2].crop != crop


def test_a_quarter_of_the_area_is_half_of_each_side():
    """From column 25 to 75 of 100, resized to 100: one column of the crop is two of the result."""
    middle = np.asarray(Crop(0.25, 0.5, 0.5)(LEFT_TO_RIGHT))
    assert middle.shape == (50, 100, 3)
    assert abs(int(middle[0, 0, 0]) - 25) <= 1
    assert abs(int(middle[0, -1, 0]) - 74) <= 1


def test_a_crop_of_everything_is_the_picture():
    assert np.array_equal(np.asarray(Crop(1.0, 0.3, 0.9)(LEFT_TO_RIGHT)), np.asarray(LEFT_TO_RIGHT))


def test_a_corrupted_picture_of_the_data_is_taken_whole():
    third = CorruptedPicture(corrupted="other")(row(), draws(1)).candidates[2]
    assert third.crop is None
    assert third.picture == row().extra["other"]


def test_equal_answers_are_dropped():
    assert CorruptedPicture()(row(chosen="red", rejected="red"), draws(1)) is None


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(Refusal, match="0 < low <= high <= 1, got 0.0 and 0.2"):
        CorruptedPicture(low=0.0)
    with pytest.raises(Refusal, match="needs column 'image'.*add it with the source diffpo.text.PictureColumns"):
        CorruptedPicture()(replace(row(), extra={}), draws(1))
    with pytest.raises(Refusal, match="Row 7 answers with a list of messages"):
        CorruptedPicture()(replace(row(), candidates=([{"role": "assistant", "content": "red"}], "blue")), draws(1))
    with pytest.raises(Refusal, match="Its picture cannot be read .UnidentifiedImageError"):
        PictureAnswer((), Held(b"no picture", Path())).shown()


def test_a_row_refers_to_its_pictures_without_reading_them():
    source = PictureColumns("pairs.parquet", corrupted="other")
    found = source.row(0, {"prompt": "what?"}, lambda name: f"cell of {name}")
    assert source.candidates == ("chosen", "rejected", "image", "other")
    assert found.candidates == ("cell of chosen", "cell of rejected")
    assert found.extra == {"prompt": "what?", "image": "cell of image", "other": "cell of other"}


def test_a_picture_is_shown_as_it_is_stored():
    assert np.array_equal(np.asarray(PictureAnswer((), PICTURE).shown()), np.asarray(LEFT_TO_RIGHT))
