import errno
import itertools
import json
import re
import shutil
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import datasets
import pytest
import torch
from damage import DAMAGES
from diffusers import AutoencoderKL
from shards import png
from tiny import moved
from tiny_encoded import TORN, base, encoded, pixels, world
from tiny_runs import adamw, weights
from transformers import CLIPTextModel

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, Unpaired
from diffpo.data.mixture import Mixed
from diffpo.data.row_maps import ScoreLabel
from diffpo.data.rows import FirstCaption
from diffpo.data.sampler import ProcessShare
from diffpo.data.streams import Stream
from diffpo.data.typed import MARKED, SEVERAL
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.encoding import EncodingSummary
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import Encoding, encode_pairs
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid
from diffpo.storage import arrow
from diffpo.train.fit import fit
from diffpo.train.run import FitConfig, open_run


@pytest.fixture(scope="module", params=[False, True], ids=["SD", "SDXL"])
def root(request, tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"), xl=request.param)


def trained(root, output_dir, data, precision="no", **loading):
    """Losses of 20 steps, and the weights then."""
    settings = {"steps": 20, "batch_size": 4, "per_device_batch_size": 2, "log_every": 1, "save_every": None}
    run = open_run(FitConfig(**settings, mixed_precision=precision), output_dir)
    model = base(root).load(run.accelerator.device, storage=run.storage, **loading)
    pairs = data.open(0)
    model.first(pairs)
    fit(DenoisingPreference(Sigmoid(2000.0)), model.unet, model.reference(), pairs, model.prepare, adamw(1e-3), run)
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines], weights(model.unet), pairs.seen


def test_training_gives_what_training_on_pictures_gives_without_vae_and_text_encoders(root, tmp_path, monkeypatch):
    """Flips, dropped captions and a torn picture included; batches of two pairs, so pictures are encoded by fours. On
    most CPUs these are the same bits.
    """
    data = encoded(root, "of-pairs", batch_size=4)
    pictures = encoded(root, "of-pictures", batch_size=4, encode="pictures")
    losses, weights_, seen = trained(root, tmp_path / "pixels", pixels(root))
    cases = [(pictures, AutoencoderKL, "prompts"), (data, CLIPTextModel, False)]
    for source, part, encodes in cases:
        monkeypatch.setattr(part, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
        again, same, seen_again = trained(root, tmp_path / str(encodes), source, encodes=encodes, draws=False)
        assert losses[:3] == pytest.approx(again[:3], rel=1e-3)
        assert losses == pytest.approx(again, rel=2e-2)  # last bits grow as training goes on
        assert (weights_ - same).norm() < 1e-2 * weights_.norm()
        assert {row for _, row in seen.broken} == {TORN}
        assert vars(seen) == vars(seen_again)


def test_encoding_in_other_batches_moves_last_bits_alone(root):
    one, other = (encoded(root, f"batches-{n}", batch_size=n).open(0).first(7) for n in (3, 4))
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-5, atol=2e-6)
    assert torch.equal(one.cond.states["prompt"], other.cond.states["prompt"])


def losses(model, data) -> torch.Tensor:
    """Of single pairs, at a policy that has moved, computed as `fit` does."""
    found = []
    for raw in islice(data.open(0).batches(ProcessShare(1, 0)), 8):
        draws = Draws(0, raw.epoch, raw.row)
        batch = model.encode(raw, draws)
        with torch.no_grad(), torch.autocast("cpu", model.storage, enabled=model.storage != torch.float32):
            found.append(DenoisingPreference(Sigmoid(500.0))(model.denoiser, model.frozen, batch, draws).loss)
    return torch.stack(found)


def test_half_precision_stays_within_its_tolerance(root):
    """Text states are those of a run in bf16, latents are rounded to 11 bits; losses move about as bf16 does."""
    half, whole = encoded(root, "half", "bfloat16"), encoded(root)
    first, rounded = (data.open(0).first(7) for data in (whole, half))
    for posterior in ("mean", "std"):
        torch.testing.assert_close(
            getattr(rounded, posterior).float(), getattr(first, posterior), rtol=5e-4, atol=1e-7
        )
    fp32, bf16 = (base(root).load(storage=storage) for storage in (torch.float32, torch.bfloat16))
    assert torch.equal(
        bf16.encoder(pixels(root).open(0).first(7)).cond.states["prompt"], rounded.cond.states["prompt"]
    )
    for model in (fp32, bf16):
        model.frozen = model.reference()
        moved(model.unet, by=0.01)
    exact, in_bf16 = losses(fp32, pixels(root)), losses(bf16, pixels(root))
    assert (losses(fp32, half) - exact).abs().max() < 3e-3
    assert (losses(bf16, half) - in_bf16).abs().mean() < 2 * (in_bf16 - exact).abs().mean()
    assert (losses(bf16, whole) - in_bf16).abs().mean() < 2 * (in_bf16 - exact).abs().mean()


def test_a_folder_is_made_once_and_read_again_whatever_is_called_first(root, tmp_path):
    folder = tmp_path / "made"
    data = Encoding(str(folder), batch_size=2)(base(root), pixels(root), 0)
    made = {file.name: file.stat().st_mtime_ns for file in folder.glob("[!.]*")}
    assert data == replace(pixels(root), source=EncodedPairs(str(folder)))
    assert encode_pairs(base(root), pixels(root), folder, seed=0) == json.loads((folder / "encoding.json").read_text())
    assert {file.name: file.stat().st_mtime_ns for file in folder.glob("[!.]*")} == made


def test_the_summary_by_hand(root, capsys):
    """Eight pairs, one of them torn, each with a prompt of its own; one more prompt is the empty one."""
    found = encoded(root, "summary").source.encoding
    assert found.keys() >= EncodingSummary.__required_keys__
    assert found == found | {"pairs": 8, "ids": 8, "k": 2, "unreadable": 1, "prompts": 9, "truncated": 0}
    assert (found["shapes"], found["latents"], found["scaling"]) == ([[4, 8, 8]], "float32", 0.18215)
    size = 8 * 2 * 2 * (2 * 4 * 8 * 8 * 4)
    assert "(8 rows x 2 pictures x 2 variants)" in capsys.readouterr().out
    assert found["bytes"] > size
    assert "encode" not in found  # as in folders that are older than this choice


def test_pictures_alone_are_those_of_whole_pairs_without_text_encoders(root, capsys, monkeypatch):
    """Eight bytes a number: a mean and a deviation of fp32."""
    whole = encoded(root, "with-prompts")
    mebibytes = whole.source.prompts().find("")["prompt"].numel() * 4 / 2**20
    told = rf"text states \(9 prompts of {mebibytes:.2f} MiB\) go to .*With encode: pictures the latents alone"
    assert re.search(told, capsys.readouterr().out) or "pooled" in whole.source.prompts().find("")
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    alone = encoded(root, "pictures", encode="pictures")
    assert "prompts are not encoded, the text encoders stay in the run" in capsys.readouterr().out
    found, name = alone.source.encoding, "pairs-00000-of-00001.arrow"
    assert (root / "pictures" / name).read_bytes() == (root / "with-prompts" / name).read_bytes()
    assert not list((root / "pictures").glob("prompts-*"))
    assert found == found | {"encode": "pictures", "prompts": 9, "bytes": (root / "pictures" / name).stat().st_size}
    assert not {"text_encoders", "truncated", "states"} & found.keys()
    assert (whole.unencoded, alone.unencoded, pixels(root).unencoded) == (False, "prompts", True)
    model = base(root).load("meta", encodes=False, draws=False)
    with pytest.raises(Refusal, match='for encoded pairs; load it .* with encodes="prompts" for pairs whose pictures'):
        model.first(alone.open(0))


def test_a_folder_of_pairs_is_none_of_pictures_and_the_other_way_round(root):
    encoded(root)
    with pytest.raises(Refusal, match="holds results of something else: .*encode was None and is 'pictures'"):
        encoded(root, encode="pictures")
    encoded(root, "pictures-too", encode="pictures")
    with pytest.raises(Refusal, match="holds results of something else: .*text_encoders was None and is"):
        encoded(root, "pictures-too")


def test_a_small_disk_names_what_needs_less(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(Refusal, match=r"output_dir, or set encode to pictures \(0.00 GiB\), with the text enc"):
        encode_pairs(base(root), pixels(root), tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"framing": Framing(64)}, "resolution was 32 and is 64"),
        ({"framing": Framing(32, flip=False)}, "flip was True and is False"),
        ({"rows": []}, r"rows was \['DropTies\(\)'\] and is \[\]"),
    ],
    ids=["resolution", "flip", "rows"],
)
def test_a_folder_of_other_work_is_refused(root, changed, message):
    encoded(root)
    with pytest.raises(Refusal, match=f"holds results of something else: .*{message}.*choose another output_dir"):
        encode_pairs(base(root), pixels(root, **changed), root / "encoded")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"framing": Framing(32, random_crop=True)}, "set data.framing.random_crop to false"),
        ({"stream": Stream()}, "set data.stream to null"),
        ({"source": EncodedPairs("x")}, "is encoded already"),
        ({"source": Mixed([EncodedPairs("x"), Columns("y")])}, "one at a time; encode each into a folder of its own"),
    ],
    ids=["crop", "stream", "encoded", "mixed"],
)
def test_what_cannot_be_stored_is_refused_with_the_remedy(tmp_path, changed, message):
    with pytest.raises(Refusal, match=message):
        encode_pairs(base(tmp_path), replace(pixels(tmp_path), **changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_read_at_all_are_told_before_any_work(root, tmp_path):
    datasets.Dataset.from_dict({"prompt": ["p"], "chosen": ["a.png"], "rejected": ["b.png"]}).to_parquet(
        tmp_path / "a.parquet"
    )
    data = PairData(Columns(str(tmp_path / "a.parquet")), framing=Framing(32), workers=0)
    with pytest.raises(Refusal, match="None of 1 pairs in a row could be read.*relative to"):
        encode_pairs(base(root), data, tmp_path / "out")


def test_row_maps_labels_and_scorer_are_those_of_the_source(root, tmp_path):
    """The second row is turned by its scores, the third was dropped when the pairs were encoded."""
    scores = {"score_chosen": [2.0, 1.0, None], "score_rejected": [1.0, 2.0, 1.0]}
    data = {"prompt": ["p", "q", "r"], "chosen": [png("red")] * 3, "rejected": [png("blue")] * 3, **scores}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "scores.json").write_text('{"scorer": "taste"}')
    label = ScoreLabel(high=4.0)
    data = PairData(Columns(str(tmp_path / "a.parquet")), [label], Framing(32, flip=False), 0.0, workers=0)
    encode_pairs(base(root), data, tmp_path / "out")
    source = EncodedPairs(str(tmp_path / "out"))
    tables = [replace(data, source=source, rows=rows).open(0).tables[0] for rows in ([], [label])]
    plain, turned = (table[1] for table in tables)
    assert (source.encoding["ids"], len(tables[0])) == (3, 2)
    assert plain.prob == 1.0
    assert plain.extra == {"prompt": "q", "score_chosen": 1.0, "score_rejected": 2.0}
    assert turned.scores == (2.0, 1.0)
    assert turned.candidates[0].side.number == 1
    assert (tmp_path / "out" / "scores.json").read_text() == '{"scorer": "taste"}'


def test_single_pictures_are_encoded_too(root, tmp_path):
    records = {"image": [png("red"), png("blue")], "label": [1, 0], "prompt": ["p", "q"]}
    datasets.Dataset.from_dict(records).to_parquet(tmp_path / "a.parquet")
    data = PairData(Unpaired(str(tmp_path / "a.parquet")), framing=Framing(32), caption_dropout=0.0, workers=0)
    encode_pairs(base(root), data, tmp_path / "out")
    model, again = base(root).load(), replace(data, source=EncodedPairs(str(tmp_path / "out")))
    (one, _), (two, _) = (model.first(some.open(0), 2) for some in (data, again))
    torch.testing.assert_close(two.latents, one.latents, rtol=1e-5, atol=1e-6)
    assert two.latents.shape == (1, 2, 4, 8, 8)
    assert torch.equal(two.label.prob, one.label.prob)


def test_a_full_disk_stops_with_the_remedy_and_keeps_whole_files(root, tmp_path, monkeypatch):
    """Room for three files; the next command goes on from there."""
    monkeypatch.setattr(arrow, "PER_FILE", 2)
    opened, count = arrow.pa.OSFile, itertools.count()

    def until_full(*arguments):
        if next(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(*arguments)

    monkeypatch.setattr(arrow.pa, "OSFile", until_full)
    with pytest.raises(Refusal, match=r"pairs-00003-of-00004.arrow could not be written .*No space.*Make room"):
        encode_pairs(base(root), pixels(root), tmp_path / "out")
    assert len(list((tmp_path / "out" / ".encoding").glob("*.arrow"))) == 3
    assert encode_pairs(base(root), pixels(root), tmp_path / "out")["unreadable"] == 1
    assert next(count) == 4 + 1 + 5


def test_several_captions_and_pictures_that_are_the_same_are_as_from_pictures(root, tmp_path):
    prompts = [["a red circle", "\ufeffa blue square"], ["green"], ["a", "b", "c"], ["red"]]
    chosen, rejected = ([png(seed=10 * side + n) for n in range(4)] for side in (0, 1))
    rejected[1] = chosen[1]
    table = {"prompt": prompts, "chosen": chosen, "rejected": rejected}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "a.parquet")
    plain = PairData(Columns(str(tmp_path / "a.parquet")), [], Framing(32), workers=0, caption_dropout=0.0)
    found = encode_pairs(base(root), plain, tmp_path / "out", batch_size=2)
    assert (found["prompts"], found["unreadable"]) == (1 + 7, 0)
    assert found["notes"] == {SEVERAL: 2, MARKED: 1}
    model, data = base(root).load(), replace(plain, source=EncodedPairs(str(tmp_path / "out")))
    ours, theirs = data.open(0), plain.open(0)
    for batch, raw in islice(
        zip(ours.batches(ProcessShare(2, 0)), theirs.batches(ProcessShare(2, 0)), strict=True), 6
    ):
        wanted = model.encoder(raw)
        assert (batch.row, batch.epoch, batch.identical) == (raw.row, raw.epoch, raw.identical)
        torch.testing.assert_close(batch.mean, wanted.mean, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(
            batch.cond.states["prompt"], wanted.cond.states["prompt"].expand_as(batch.cond.states["prompt"])
        )
    assert {row for _, row in ours.seen.identical} == {1}
    assert "1 with the same picture on all sides were passed over: rows [1]" in ours.report()
    assert "; 2 have several captions" in ours.report()


def test_of_several_captions_only_those_that_row_maps_leave_are_encoded(root, tmp_path):
    table = {"prompt": [["a", "b"]] * 2, "chosen": [png(seed=0)] * 2, "rejected": [png(seed=1)] * 2}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "a.parquet")
    data = PairData(Columns(str(tmp_path / "a.parquet")), [FirstCaption()], Framing(32), workers=0)
    assert encode_pairs(base(root), data, tmp_path / "out")["prompts"] == 2
    assert Encoding(str(tmp_path / "out"))(base(root), data, 0).open(0).first(2).row == (0, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished folder beside what it was made of; not to be written to."""
    root = world(tmp_path_factory.mktemp("finished"))
    encoded(root, "whole")
    return root / "whole"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", ["pairs", "prompts"])
def test_a_damaged_file_is_named_by_training_and_made_anew_by_the_same_command(
    finished, tmp_path, what, damage, caplog
):
    folder = shutil.copytree(finished, tmp_path / "copy")
    name = f"{what}-00000-of-00001.arrow"
    DAMAGES[damage](folder / name, 4)
    with pytest.raises(Refusal, match=rf"copy is damaged: {name} .*; encode the pairs .* once more, which mends that"):
        EncodedPairs(str(folder)).open()
    encode_pairs(base(finished.parent), pixels(finished.parent), folder, batch_size=2)
    assert name in caplog.text
    assert "That is made anew" in caplog.text
    assert {file.name for file in folder.glob("[!.]*")} == {file.name for file in finished.glob("[!.]*")}
    assert all((folder / file.name).read_bytes() == file.read_bytes() for file in finished.glob("[!.]*"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["encoding.json", "files.json"])
def test_a_damaged_summary_is_one_line(finished, tmp_path, name, damage, caplog):
    folder = shutil.copytree(finished, tmp_path / "copy")
    DAMAGES[damage](folder / name, 4)
    if (name, damage) == ("files.json", "removed"):
        EncodedPairs(str(folder)).open()
        assert "has no files.json, so its files are taken as they are" in caplog.text
        return
    with pytest.raises(Refusal, match=r"encoding.json|files.json") as refused:
        EncodedPairs(str(folder)).open()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_before_the_end_is_made_anew(finished, tmp_path, damage, monkeypatch, caplog):
    """Stopped after the first table: its file waits in the hidden folder."""
    folder = tmp_path / "out"
    monkeypatch.setattr(
        "diffpo.diffusion.encode.prompt_shards.PromptShards.write", lambda *_, **__: pytest.fail("stopped")
    )
    with pytest.raises(pytest.fail.Exception):
        encode_pairs(base(finished.parent), pixels(finished.parent), folder, batch_size=2)
    monkeypatch.undo()
    DAMAGES[damage](folder / ".encoding" / "pairs-00000-of-00001.arrow", 4)
    encode_pairs(base(finished.parent), pixels(finished.parent), folder, batch_size=2)
    assert ("That is made anew" in caplog.text) == (damage != "removed")
    assert all((folder / file.name).read_bytes() == file.read_bytes() for file in finished.glob("[!.]*"))
