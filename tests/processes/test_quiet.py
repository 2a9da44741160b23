import logging
import warnings
from io import BytesIO

import pytest
import torch
from PIL import Image
from tiny import pipeline, unet

from diffpo.data.files.pictures import read_image
from diffpo.diffusion.pipelines.negative import StableDiffusionNegativePipeline
from diffpo.processes.quiet import LOGGED, WARNED, leave_out_what_is_said_in_vain


@pytest.fixture
def records():
    """What the loggers hand on, wherever they send it."""
    found, loggers = [], [logging.getLogger(name) for name, _ in LOGGED]
    catching = logging.Handler()
    catching.emit = lambda record: found.append(record.getMessage())
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(catching)
        logger.setLevel(logging.WARNING)  # whatever verbosity of diffusers an earlier test of this process has left
    yield found
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(catching)
        logger.setLevel(level)


def test_casting_a_network_without_a_part_that_must_stay_is_no_warning(records):
    unet().to(torch.float32)
    plain = pipeline()
    StableDiffusionNegativePipeline.from_pipe(plain, negative_unet=plain.unet, safety_checker=None)
    assert records == []


@pytest.mark.parametrize(("name", "words"), LOGGED)
def test_other_words_of_the_same_loggers_pass(records, name, words):
    logging.getLogger(name).warning(f"x {words} x")
    logging.getLogger(name).warning("There are modules in %s that should be kept in float32: %s", "X", ["norm"])
    assert records == ["There are modules in X that should be kept in float32: ['norm']"]


def test_deprecations_that_only_libraries_can_mend_are_left_out_and_others_are_not():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leave_out_what_is_said_in_vain()
        for words in (*WARNED, "something else"):
            warnings.warn(words, FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]


def test_what_pillow_says_of_damaged_pictures_without_naming_them_is_left_out():
    held = BytesIO()
    Image.new("RGB", (8, 8)).save(held, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")  # of five entries, none
    for left_out in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if left_out:
                leave_out_what_is_said_in_vain()
            read_image(held.getvalue())
        assert bool(caught) is not left_out
