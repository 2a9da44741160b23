import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from commands.test_train import arguments, train
from started import HELPERS, started
from tiny_encoded import base, pixels, world

from diffpo.cli.command import launch, parse
from diffpo.commands import encode as encode_pairs
from diffpo.commands import train as train_diffusion_dpo
from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.storage import arrow
from diffpo.storage.lock import LOCK


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Eight pairs that one process began to encode until it was killed, and that two processes went on with."""
    root = world(tmp_path_factory.mktemp("killed"))
    work = [HELPERS / "encoding_until.py", root, root / "out"]
    assert started(*work, 2) == [-signal.SIGKILL]
    assert not (root / "out" / "encoding.json").exists()
    (root / "left").write_text("\n".join(sorted(file.name for file in (root / "out" / ".encoding").iterdir())))
    assert started(*work, 0, processes=2) == [0, 0]
    return root


def test_a_kill_leaves_whole_files_and_one_that_is_not_taken_for_one(killed):
    assert (killed / "left").read_text().splitlines() == [
        LOCK,
        "files",
        "identity.json",
        "pairs-00000-of-00004.arrow",
        "pairs-00001-of-00004.arrow",
        "pairs-00002-of-00004.unfinished",
    ]
    (killed / ".encoding").mkdir()
    shutil.copy(killed / "out" / "pairs-00000-of-00004.arrow", killed / ".encoding")
    with pytest.raises(Refusal, match="encoding.json is missing"):
        EncodedPairs(str(killed / ".encoding")).open()


def test_no_file_is_made_twice_and_two_processes_share_what_is_left(killed):
    logs = [file.read_text().splitlines() for file in killed.glob("log.*")]
    assert sorted(map(len, logs)) == [2, 3, 4]
    assert len({name for log in logs for name in log}) == 9


def test_files_are_those_of_one_process_that_was_never_stopped(killed, tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "PER_FILE", 2)
    encode_pairs.main(base(killed), pixels(killed), tmp_path / "out", batch_size=4)
    one, two = ({file.name: file.read_bytes() for file in (root / "out").glob("[!.]*")} for root in (tmp_path, killed))
    assert {"config.yaml", "encoding.json", "prompts-00004-of-00005.arrow"} < set(one)
    assert one == two


def said(monkeypatch, capsys, root, *overrides: str) -> str:
    """What the script says when it stops with an error."""
    first = [f"--base.path={root / 'base'}", "--data.source=diffpo.data.PairFolder"]
    first += [f"--data.source.path={root / 'pairs'}", "--data.framing.resolution=32", "--data.workers=0"]
    monkeypatch.setattr(sys, "argv", ["encode_pairs.py", *first, f"--output_dir={root / 'new'}", *overrides])
    with pytest.raises(SystemExit):
        launch(encode_pairs.main)
    told = capsys.readouterr().err
    return told[told.rindex("error: ") :]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.source.path=no/such/pairs"], "There is no no/such/pairs, which was named as a folder of pairs"),
        (["--base.path=no/such"], "Cannot load a diffusers pipeline from 'no/such'"),
        (["--data.framing.random_crop=true"], "Random crops differ in each epoch and cannot be stored"),
        (["--data.stream.buffer=4"], "Pairs are encoded from a table; set data.stream to null"),
        (
            ["--output_dir=assets"],
            "output_dir assets is not empty: it holds before_after.png, benchmark.json",
        ),
        (["--dtype=int8"], "dtype"),
        (["--batch_size=0"], "batch_size must be at least 1, got 0"),
        (["--data.workers=-1"], "data.workers must be at least 0, got -1"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_a_line(killed, monkeypatch, capsys, overrides, message):
    assert message in said(monkeypatch, capsys, killed, *overrides)


def test_the_script_says_what_was_made_and_how_to_go_on(killed, tmp_path, capsys):
    encode_pairs.main(base(killed), pixels(killed), tmp_path / "out", settings="seed: 0\n")
    told = capsys.readouterr().out
    assert "8 pairs and 9 prompts encoded, 0.00 GiB; 1 pairs have a picture that could not be read; 0 prompts" in told
    assert told.endswith(f"--data.source=diffpo.diffusion.EncodedPairs --data.source.path={tmp_path / 'out'}\n")
    encode_pairs.main(base(killed), pixels(killed), tmp_path / "out", settings="seed: 1\n")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} was finished already, nothing was encoded.")
    assert (tmp_path / "out" / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("config", sorted(Path("configs/encode").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_parses_and_its_resolved_form_is_itself(config, tmp_path):
    _, settings = parse(encode_pairs.main, [f"--config={config}", "--output_dir=out"])
    (tmp_path / "config.yaml").write_text(settings)
    assert parse(encode_pairs.main, [f"--config={tmp_path / 'config.yaml'}"])[1] == settings


@pytest.mark.parametrize(
    ("config", "recipes"),
    [("tiny", ["quickstart"]), ("sd15", ["diffusion/diffusion_dpo_sd15"]), ("sdxl", ["diffusion/diffusion_dpo_sdxl"])],
)
def test_a_config_is_of_the_recipe_that_it_names(config, recipes):
    encodes, _ = parse(encode_pairs.main, [f"--config=configs/encode/{config}.yaml", "--output_dir=out"])
    for recipe in recipes:
        trains, _ = parse(train_diffusion_dpo.main, [f"--config=configs/{recipe}.yaml", "--output_dir=out"])
        assert (encodes["base"].path, encodes["base"].vae) == (trains["base"].path, trains["base"].vae)
        assert encodes["data"].source == trains["data"].source
        assert encodes["data"].framing.resolution == trains["data"].framing.resolution
        assert encodes["data"].framing.flip >= trains["data"].framing.flip


def test_encoding_on_the_fly_trains_previews_judges_and_is_resumed(killed, tmp_path):
    options = [f"--encoding.folder={tmp_path / 'encoded'}", "--validation.share=0.4", "--validation.pairs=2"]
    train(killed, tmp_path / "run", *options)
    train(killed, tmp_path / "run", *options, "--fit.steps=3", "--resume=latest")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "validation/rewards/accuracies" in lines[-1]
    assert (tmp_path / "run" / "previews" / "step-000000.png").exists()
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"EncodedPairs(path='{tmp_path / 'encoded'}')" in card
    assert f"encoded from `PairFolder(path='{killed / 'pairs'}')`" in card
    assert "cut when they were encoded" in card


def test_a_cache_of_another_vae_is_refused_before_anything_is_loaded(killed, tmp_path, monkeypatch, capsys):
    other = world(tmp_path / "other", n=4)
    torch.manual_seed(1)
    overrides = ["--data.source=diffpo.diffusion.EncodedPairs", f"--data.source.path={killed / 'out'}"]
    overrides += [f"--base.vae={tmp_path / 'no' / 'vae'}", "--preview=null", "--data.framing.flip=false"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments(other, tmp_path / "run", *overrides)])
    with pytest.raises(SystemExit):
        launch(train_diffusion_dpo.main)
    told = capsys.readouterr().err
    assert "vae was 'sha256" in told
    assert "encode the pairs anew with scripts/encode_pairs.py" in told


def test_pairs_in_buckets_are_trained_shape_by_shape(killed, tmp_path):
    framing = ["--data.framing.bucket_step=8", "--data.together=2", f"--encoding.folder={tmp_path / 'buckets'}"]
    train(killed, tmp_path / "run", *framing, "--fit.steps=6", "--preview=null")
    source = EncodedPairs(str(tmp_path / "buckets"))
    data = PairData(source, framing=Framing(32, flip=False, bucket_step=8), workers=0, together=2)
    assert len(set(data.open().tables[0].shapes)) == 3
