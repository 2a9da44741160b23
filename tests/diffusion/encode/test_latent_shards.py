import numpy as np
import pytest
import torch
from tiny_encoded import TORN, base, pixels, world

from diffpo.data.pairs import PairTable
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.encode.latent_shards import EncodedShards, FramedPairs
from diffpo.diffusion.model.encoder import Encoder
from diffpo.diffusion.model.loading import load_pipeline


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


def shards(root, batch_size=3, **framing) -> EncodedShards:
    pairs = PairTable(pixels(root).source, [], 0)
    encoder = Encoder.of(load_pipeline(base(root), denoises=False))
    framing = Framing(32, **framing)
    return EncodedShards(pairs, framing, encoder, torch.float32, batch_size, 0, torch.device("cpu"))


def records(work: EncodedShards) -> list[dict]:
    pictures = FramedPairs(work.pairs, work.framing)
    return work.records(range(work.rows), [pictures[n] for n in range(work.rows)])


def test_a_record_holds_mean_and_deviation_of_each_picture_as_it_is_and_mirrored(root):
    work = shards(root)
    record, shown = records(work)[0], FramedPairs(work.pairs, work.framing)[0]
    for variant, framed in zip(("", "flipped_"), shown.variants, strict=True):
        mean, std = work.encoder.posterior(framed.pixels)
        for side in range(2):
            stored = torch.from_numpy(np.frombuffer(record[f"{variant}latents_{side}"], np.float32).copy())
            expected = torch.stack([mean[side], std[side]])
            torch.testing.assert_close(stored.view(2, 4, 8, 8), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(shown.variants[1].pixels, shown.variants[0].pixels.flip(-1))


def test_sizes_are_known_before_the_work(root):
    assert shards(root).bytes == 8 * 2 * 2 * (2 * 4 * 8 * 8 * 4)
    assert shards(root, flip=False).bytes == 8 * 2 * (2 * 4 * 8 * 8 * 4)
    assert shards(root, bucket_step=8).latent_shapes == [[4, 10, 6], [4, 8, 8], [4, 6, 10]]
    assert shards(root, bucket_step=8).bytes == shards(root).bytes


def test_the_vae_gets_batches_of_one_shape_that_are_all_full(root, monkeypatch):
    work, seen = shards(root, bucket_step=8), []
    encode = work.encoder.vae.encode
    monkeypatch.setattr(work.encoder.vae, "encode", lambda x: (seen.append(tuple(x.shape)), encode(x))[1])
    records(work)
    assert {shape[2:] for shape in seen} == {(24, 40), (32, 32), (40, 24)}
    assert {shape[0] for shape in seen} == {3}


def test_a_pair_keeps_the_shape_that_suits_both_pictures(root):
    """Pair 0 is 40 x 32 against 96 x 64, pair 1 20 x 48 against 40 x 32, all others 40 x 32 twice."""
    found = [record["shape"] for record in records(shards(root, bucket_step=8))]
    assert found == [2, 0, 1, -1, 1, 1, 1, 1]


def test_a_torn_pair_has_a_line_without_posteriors(root):
    line = records(shards(root))[TORN]
    assert line["id"] == TORN
    assert all(line[name] is None for name in line if "latents" in name or "time_ids" in name)


def test_what_is_written_may_be_written_in_any_order(root, tmp_path, monkeypatch):
    monkeypatch.setattr("diffpo.storage.arrow.PER_FILE", 3)
    work = shards(root)
    one, two, three = work.files
    list(work.write([one, two, three], tmp_path / "forward", silent=True))
    list(work.write([three], tmp_path / "backward", silent=True))
    list(work.write([two, one], tmp_path / "backward", silent=True))
    folders = [tmp_path / "forward", tmp_path / "backward"]
    forward, backward = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert forward == backward
