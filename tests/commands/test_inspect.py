import inspect as signatures
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from tiny import pair_folder, saved

from diffpo.cli.command import launch
from diffpo.commands import inspect, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    pair_folder(root / "pairs")
    saved(root / "base")
    return root


def arguments(world, *overrides: str) -> list[str]:
    return [
        "--config=configs/quickstart.yaml",
        f"--base.path={world / 'base'}",
        "--data.source=diffpo.data.PairFolder",
        f"--data.source.path={world / 'pairs'}",
        f"--output_dir={world / 'run'}",
        "--fit.steps=6",
        "--fit.batch_size=4",
        "--fit.per_device_batch_size=2",
        *overrides,
    ]


def told(world, capsys, *overrides: str) -> str:
    launch(inspect.main, arguments(world, *overrides))
    return capsys.readouterr().out


def refused(world, capsys, *overrides: str) -> str:
    with pytest.raises(SystemExit):
        launch(inspect.main, arguments(world, *overrides))
    return capsys.readouterr().err


def test_it_takes_the_options_of_training():
    ours, theirs = (signatures.signature(main).parameters for main in (inspect.main, train.main))
    assert theirs.keys() <= ours.keys()
    assert {name: part.annotation for name, part in theirs.items()} == {n: ours[n].annotation for n in theirs}
    assert ours.keys() - theirs.keys() == {"sheet", "pairs"}


def test_it_says_what_is_trained_on_what_for_how_long_and_what_that_takes(world, capsys):
    said = told(world, capsys, "--base.adapter=diffpo.diffusion.LoRA", "--base.adapter.rank=2")
    assert "diffpo.diffusion.DenoisingPreference with diffpo.losses.Sigmoid" in said
    assert f"{world / 'base'}: diffpo.diffusion.LoRA inside it, 1,376 trainable" in said
    assert "6 steps of 4 pairs (1 processes x 2 x 2 accumulated), 4.00 epochs of 6 pairs" in said
    assert "float32 on cpu" in said
    assert "6 of 6 rows were kept" in said
    assert "0 of 6 prompts looked at are longer than" in said
    assert "two moments of Adam, gradients, activations\n" in said
    assert "3 checkpoints of" in said
    assert "warning" not in said


def test_nothing_is_written_but_the_sheet_of_the_first_pairs(world, capsys):
    said = told(world, capsys, "--pairs=3")
    sheet = world / "run-first-pairs.png"
    assert str(sheet) in said
    assert not (world / "run").exists()
    two, four = Image.open(sheet), world / "four.png"
    told(world, capsys, f"--sheet={four}", "--pairs=5")
    assert Image.open(four).height > two.height
    assert Image.open(four).width == two.width


def test_it_warns_of_a_resolution_far_from_the_base_s(world, capsys):
    said = told(world, capsys, "--data.framing.resolution=16")
    assert "data.framing.resolution 16 is far from the 32 that the base draws at" in said


def test_it_warns_of_more_workers_than_cores_and_of_slow_bf16(world, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    AcceleratorState._reset_state(True)  # which remembers the precision of the first
    said = told(world, capsys, "--data.workers=9999", "--fit.mixed_precision=bf16")
    AcceleratorState._reset_state(True)
    assert "data.workers 9999 is more than the" in said
    assert "bf16 is slow on cpu" in said


def test_what_training_would_refuse_is_refused(world, capsys):
    assert "fit.batch_size 4 is not a multiple" in refused(world, capsys, "--fit.per_device_batch_size=3")
    assert "learns from texts" in refused(world, capsys, "--objective=diffpo.text.SequencePreference")
    assert "nowhere" in refused(world, capsys, "--base.path=nowhere")


def test_held_out_pairs_are_told(world, capsys):
    said = told(world, capsys, "--validation.share=0.4", "--validation.every=2")
    assert "held out " in said


def test_pairs_that_training_encodes_first_are_read_as_pictures(world, capsys):
    said = told(world, capsys, f"--encoding.folder={world / 'encoded'}", "--data.framing.bucket_step=8")
    assert f"training would encode the pairs into {world / 'encoded'} first" in said
    assert not (world / "encoded").exists()


def test_encoded_pairs_are_decoded_for_the_sheet(world, capsys, monkeypatch):
    from diffpo.commands.encode import main as encode

    folder = world / "encoded"
    options = [f"--base.path={world / 'base'}", "--data.source=diffpo.data.PairFolder", "--data.framing.flip=false"]
    options += [f"--data.source.path={world / 'pairs'}", f"--output_dir={folder}", "--data.framing.resolution=32"]
    launch(encode, options)
    encoded = ["--data.source=diffpo.diffusion.EncodedPairs", f"--data.source.path={folder}"]
    said = told(world, capsys, *encoded, f"--sheet={world / 'decoded.png'}", "--pairs=2")
    assert "cut when they were encoded" in said
    assert len(Image.open(world / "decoded.png").convert("L").getcolors(10**6)) > 30


def test_the_command_is_a_word_of_diffpo(world, capsys, monkeypatch):
    from diffpo.__main__ import main

    monkeypatch.setattr(sys, "argv", ["diffpo", "inspect", *arguments(world)])
    main()
    assert "first pairs" in capsys.readouterr().out
