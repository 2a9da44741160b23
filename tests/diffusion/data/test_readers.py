import io
from pathlib import Path

import pytest
from PIL import Image
from shards import png

from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.rows import PairRow
from diffpo.data.typed import Captions
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.readers import PixelReader, Seen, gather_ids


def row(number, *sizes, **fields):
    candidates = tuple(Held(png(size=size), Path()) for size in sizes)
    return PairRow(number, ("a", "b", "c")[: len(sizes)], candidates, scores=(0.0,) * len(sizes), **fields)


def read(*rows, dropout=0.0):
    reader = PixelReader(Framing(16, flip=False), dropout, 0)
    return reader.collate([reader([(0, row)]) for row in rows])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rows_of_any_number_of_candidates(k):
    batch = read(*(row(i, *[(20, 16)] * k) for i in range(4)))
    assert batch.pixels.shape == (k, 4, 3, 16, 16)
    assert batch.time_ids.shape == (k, 4, 6)
    assert batch.label.score.shape == (k, 4)
    assert batch.prompts == tuple([side] * 4 for side in "abc"[:k])


def test_undesirable_pictures_keep_their_label():
    assert read(row(0, (16, 16), prob=0.0), row(1, (16, 16), prob=1.0)).label.prob.tolist() == [0.0, 1.0]


def test_time_ids_by_hand_and_mapped_with_the_other_tensors():
    batch = read(row(0, (20, 16), (16, 24))).map(lambda x: x + 1)
    assert batch.time_ids.tolist() == [[[17, 21, 1, 3, 17, 17]], [[25, 17, 5, 1, 17, 17]]]


def test_pictures_that_had_to_be_enlarged_are_counted():
    seen = Seen()
    seen.note(read(row(0, (20, 16), (15, 64))))
    assert (seen.pictures, seen.enlarged) == (2, 1)
    assert seen.everywhere()[1] == " 1 of 2 pictures read were smaller than the resolution and were enlarged."


def test_nothing_is_said_where_nothing_was_enlarged():
    seen = Seen()
    seen.note(read(row(0, (20, 16))))
    assert seen.everywhere() == ([], "")


def test_the_first_readable_pair_is_taken_and_the_others_are_named():
    broken = PairRow(7, ("a",), (Held(b"", Path()),), scores=(0.0,))
    example = PixelReader(Framing(16), 0.0, 0)([(2, broken), (3, row(1, (16, 16)))])
    assert (example.epoch, example.row.id, example.broken) == (3, 1, ((2, 7),))


RED, BLUE = png((255, 0, 0)), png((0, 0, 255))


def of(number, *pictures, prompts=("a", "a", "a")):
    candidates = tuple(Held(picture, Path()) for picture in pictures)
    return PairRow(number, prompts[: len(pictures)], candidates, scores=(0.0,) * len(pictures))


@pytest.mark.parametrize("k", [2, 3])
def test_a_row_of_one_picture_is_passed_over_and_named(k):
    example = PixelReader(Framing(16), 0.0, 0)([(2, of(7, *[RED] * k)), (3, of(1, *[RED] * (k - 1), BLUE))])
    assert (example.epoch, example.row.id, example.broken, example.identical) == (3, 1, (), ((2, 7),))


def test_one_picture_of_one_prompt_and_of_two_prompts():
    """Under captions of its own, each side says something else."""
    assert read(of(0, RED)).row == read(of(0, RED, RED, prompts=("a", "b"))).row == (0,)
    with pytest.raises(Refusal, match="None of 1 pairs .*: 0 cannot be read, and 1 have the same .* them row 0; name"):
        read(of(0, RED, RED))


def test_the_same_picture_in_two_files_is_found_too(tmp_path):
    for name in ("a.png", "b.png", "c.bmp"):
        Image.open(io.BytesIO(RED)).save(tmp_path / name)
    for other in ("a.png", "b.png", "c.bmp"):
        row = PairRow(0, ("a", "a"), (Held("a.png", tmp_path), Held(other, tmp_path)))
        example = PixelReader(Framing(16), 0.0, 0)([(0, row), (0, of(1, RED, BLUE))])
        assert example.identical == ((0, 0),)


def test_broken_and_identical_pairs_are_told_apart():
    seen, reader = Seen(), PixelReader(Framing(16), 0.0, 0)
    rows = [of(4, RED, RED), of(5, b"", RED), of(6, RED, RED), of(7, RED, BLUE)]
    seen.note(reader.collate([reader([(0, row) for row in rows])]))
    assert (gather_ids(seen.identical), gather_ids(seen.broken)) == ([(0, 4), (0, 6)], [(0, 5)])
    with pytest.raises(Refusal, match="None of 3 pairs .*: 1 cannot be read, and 2 have the same .* them row 6; name"):
        reader([(0, row) for row in rows[:3]])


def test_each_visit_draws_one_of_several_captions_for_all_sides():
    several, reader = Captions(["a", "b", "c"]), PixelReader(Framing(16), 0.0, 0)
    row = of(0, RED, BLUE, prompts=(several, several))
    visits = [reader([(epoch, row)]).prompts for epoch in range(30)]
    assert {prompts[0] for prompts in visits} == {"a", "b", "c"}
    assert all(chosen == rejected for chosen, rejected in visits)
    assert visits == [reader([(epoch, row)]).prompts for epoch in range(30)]
    assert reader.collate([reader([(0, row)])]).prompts == ([visits[0][0]], [visits[0][1]])
