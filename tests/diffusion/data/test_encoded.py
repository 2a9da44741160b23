import json
import shutil

import numpy as np
import pytest
from tiny import draws
from tiny_encoded import TORN, encoded, pixels, world

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage
from diffpo.data.pairs import PairTable
from diffpo.data.rows import Reverse
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import MinSize, PairData


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def source(root) -> EncodedPairs:
    return encoded(root).source


def table(source, *maps) -> PairTable:
    return PairTable(source, list(maps), seed=0)


def test_rows_are_those_of_the_source(root, source):
    before, now = PairTable(pixels(root).source, [], 0), table(source)
    assert len(now) == now.ids == len(before) == 8
    for one, other in zip((before[n] for n in range(8)), (now[n] for n in range(8)), strict=True):
        assert (one.id, one.prompts, one.prob, one.scores, one.weight) == (
            other.id,
            other.prompts,
            other.prob,
            other.scores,
            other.weight,
        )
        assert other.extra == {"prompt": one.prompts[0]}


def test_a_mirrored_posterior_is_another_one_and_its_crop_is_counted_from_the_other_side(source):
    """96 x 64 is resized to 48 x 32 and cropped to the middle 32; 40 x 32 keeps 4 on the left."""
    chosen, rejected = table(source)[0].candidates
    plain, mirrored = (rejected.read(mirrored=flag) for flag in (False, True))
    assert plain.mean.shape == plain.std.shape == (4, 8, 8)
    assert not np.array_equal(plain.mean, mirrored.mean)
    assert plain.time_ids.tolist() == mirrored.time_ids.tolist() == [64, 96, 0, 8, 32, 32]
    assert chosen.read(mirrored=False).time_ids.tolist() == [32, 40, 0, 4, 32, 32]


def test_a_map_that_turns_the_pair_takes_the_posteriors_along(source):
    plain, turned = table(source)[0].candidates, table(source, Reverse())[0].candidates
    for one, other in zip(plain, turned[::-1], strict=True):
        assert np.array_equal(one.read(False).mean, other.read(False).mean)
        assert np.array_equal(one.read(False).time_ids, other.read(False).time_ids)


def test_a_pair_with_a_torn_picture_is_broken_as_a_whole(source):
    for candidate in table(source)[TORN].candidates:
        with pytest.raises(BrokenImage, match="could not be read when the pairs were encoded"):
            candidate.read(mirrored=False)


def test_min_size_reads_the_sizes_that_pictures_had(source):
    """One picture of pair 1 is 20 wide; the torn pair stays, to be counted when it is visited."""
    assert table(source)[0].candidates[1].size() == (96, 64)
    kept = table(source, MinSize(32)).kept.tolist()
    assert kept == [0, 2, TORN, 4, 5, 6, 7]
    torn = table(source)[TORN]
    assert MinSize(1000)(torn, draws(1)) is torn


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        (Framing(64), "resolution was 32 and is 64; encode the pairs .* or set data.framing"),
        (Framing(32, bucket_step=8), "bucket_step was None and is 8"),
        (Framing(32, random_crop=True), "holds center crops; set data.framing.random_crop to false"),
    ],
    ids=["resolution", "buckets", "crop"],
)
def test_another_framing_is_refused_saying_what_differs(source, framing, message):
    with pytest.raises(Refusal, match=message):
        PairData(source, framing=framing).open()


def test_flips_need_mirrored_pictures_but_not_the_other_way_round(root, source):
    source.require_framing(Framing(32, flip=False))
    plain = encoded(root, "plain", framing=Framing(32, flip=False)).source
    with pytest.raises(Refusal, match="holds no mirrored pictures; set data.framing.flip to false, or"):
        plain.require_framing(Framing(32, flip=True))


def test_a_folder_that_is_not_finished_is_refused(source, tmp_path):
    with pytest.raises(Refusal, match="not all of them .encoding.json is missing.*goes on where it was stopped"):
        EncodedPairs(str(tmp_path)).open()
    with pytest.raises(Refusal, match="There is no .*nope, which was named as encoded pairs"):
        EncodedPairs(str(tmp_path / "nope")).open()
    shutil.copytree(source.path, tmp_path / "copy")
    (tmp_path / "copy" / "pairs-00000-of-00001.arrow").unlink()
    with pytest.raises(Refusal, match="damaged: pairs-00000-of-00001.arrow is missing; encode .* which mends"):
        EncodedPairs(str(tmp_path / "copy")).open()


def test_ids_count_rows_of_the_source_whether_they_were_kept_or_not(source, tmp_path):
    (tmp_path / "encoding.json").write_text(json.dumps({"ids": 3000}))
    assert EncodedPairs(str(tmp_path)).ids(8) == 3000
    assert source.ids(8) == 8


def test_what_cannot_be_read_stands_with_the_shape_that_most_pairs_have(root):
    framing = Framing(32, bucket_step=8)
    source = encoded(root, "buckets", framing=framing).source
    of = source.shapes(source.open())
    stored = source.open()["shape"][:]
    assert stored[TORN] == -1
    assert of[TORN] == np.bincount([n for n in stored if n >= 0]).argmax()
    assert [source.encoding["shapes"][n] for n in of[:2]] == [[4, 6, 10], [4, 10, 6]]
