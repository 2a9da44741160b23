import json
import signal
import sys

import pytest
from captioning_until import TOKENIZER, Logged
from started import HELPERS, started
from tiny import pair_folder
from tiny_speakers import llama, llava

from diffpo.annotators.captioners.chat import ChatCaptioner
from diffpo.annotators.captioners.dipper import Dipper
from diffpo.annotators.captioners.roles import Strategy, Strength
from diffpo.cli.command import launch, parse
from diffpo.commands import caption as caption_pairs
from diffpo.data.layouts import PairFolder
from diffpo.lab.shapes.captions import read_caption


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Six pairs that one process began to caption until it was killed, and that two processes went on with."""
    root = tmp_path_factory.mktemp("killed")
    work = [HELPERS / "captioning_until.py", pair_folder(root / "pairs"), root / "out", root / "log"]
    assert started(*work, 3) == [-signal.SIGKILL]
    assert len((root / "log").read_text().splitlines()) == 4
    assert started(*work, 0, processes=2) == [0, 0]
    return root


def test_after_a_kill_two_processes_ask_for_the_rest_only(killed):
    said = (killed / "log").read_text().splitlines()
    assert len(said) == len(set(said)) == 12
    assert sorted(int(file.read_text()) for file in killed.glob("log.*")) == [2, 2, 3]


def test_files_are_those_of_one_process_that_was_never_stopped(killed, tmp_path):
    settings = {"captioner": Logged(tmp_path / "log"), "batch_size": 2, "tokenizer": TOKENIZER}
    caption_pairs.main(PairFolder(str(killed / "pairs")), tmp_path / "out", Strategy.caption, **settings)
    one, two = ({file.name: file.read_bytes() for file in (root / "out").glob("[!.]*")} for root in (tmp_path, killed))
    assert sorted(one) == ["captions.json", "config.yaml", "files.json", "train-00000-of-00001.parquet"]
    assert one == two


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    llava(root / "llava")
    llama(root / "llama")
    pair_folder(root / "pairs", n=2)
    return root


def arguments(world, output_dir, *overrides: str) -> list[str]:
    source = ["--source=diffpo.data.PairFolder", f"--source.path={world / 'pairs'}"]
    return [*source, f"--tokenizer={TOKENIZER}", f"--output_dir={output_dir}", *overrides]


def caption(world, output_dir, *overrides: str) -> dict:
    chosen, settings = parse(caption_pairs.main, arguments(world, output_dir, *overrides))
    caption_pairs.main(**chosen, settings=settings)
    return json.loads((output_dir / "captions.json").read_text())


def test_a_vision_language_model_and_a_chat_model_from_the_command_line(world, tmp_path, capsys):
    """Hybrid in one go, and its second half over captions of an earlier run."""
    speakers = ["--captioner=diffpo.annotators.ChatCaptioner", f"--captioner.path={world / 'llava'}"]
    speakers += ["--captioner.max_tokens=5", "--captioner.temperature=1"]
    rewriter = ["--perturber=diffpo.annotators.ChatPerturber", f"--perturber.path={world / 'llama'}"]
    rewriter += ["--perturber.max_tokens=5", "--perturber.temperature=1", "--strength=strong"]
    clip = ["--scorer=diffpo.scorers.CLIPScore", "--scorer.path=assets/tiny-clip"]
    found = caption(world, tmp_path / "hybrid", "--strategy=hybrid", *speakers, *rewriter, *clip)
    assert [speaker["kind"] for speaker in found["speakers"]] == ["ChatCaptioner", "ChatPerturber"]
    told = capsys.readouterr().out
    assert "captions for 2 pairs (hybrid)" in told
    assert "clip_score of (chosen, its caption) minus (rejected, its caption)" in told
    caption(world, tmp_path / "captions", "--strategy=caption", *speakers)
    again = ["--source=diffpo.data.Columns", f"--source.path={tmp_path / 'captions'}"]
    columns = "--columns=[caption_chosen, caption_rejected]"
    caption(world, tmp_path / "perturbed", "--strategy=perturb", *rewriter, *again, columns)
    both = [(tmp_path / name / "captions.json").read_text() for name in ("hybrid", "perturbed")]
    assert json.loads(both[0])["words"] == json.loads(both[1])["words"]


def said(world, monkeypatch, capsys, output_dir, *overrides: str) -> str:
    """What the script says when it stops with an error."""
    monkeypatch.setattr(sys, "argv", ["caption_pairs.py", *arguments(world, output_dir, *overrides)])
    with pytest.raises(SystemExit):
        launch(caption_pairs.main)
    told = capsys.readouterr().err
    return told[told.rindex("error: ") :]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--strategy=caption"], "Strategy caption needs a captioner"),
        (["--strategy=perturb"], "Strategy perturb needs a perturber"),
        (["--strategy=shout"], "strategy"),
        (["--strategy=caption", "--captioner=diffpo.annotators.ChatCaptioner", "--captioner.path={world}/llama"],
         "is a llama, ChatCaptioner needs an image-text-to-text model"),
        (["--strategy=caption", "--captioner=diffpo.annotators.Endpoint", "--captioner.model=m",
          "--captioner.base_url=http://127.0.0.1:9/v1", "--captioner.tries=1"], "or run the same command when"),
        (["--strategy=perturb", "--perturber=diffpo.annotators.DropWords", "--columns=[a, b]"],
         "columns names 'a', row 0 has no such column"),
        (["--strategy=perturb", "--perturber=diffpo.annotators.DropWords", "--tokenizer=no/such"], "'no/such'"),
        (["--strategy=perturb", "--perturber=diffpo.annotators.DropWords", "--batch_size=0"],
         "batch_size must be at least 1, got 0"),
        (["--strategy=perturb", "--perturber=diffpo.annotators.DropWords", "--retries=-1"],
         "retries must be at least 0, got -1"),
    ],
    ids=["captioner", "perturber", "strategy", "kind", "endpoint", "columns", "tokenizer", "batch", "retries"],
)  # fmt: skip
def test_bad_input_is_told_in_a_line(world, tmp_path, monkeypatch, capsys, overrides, message):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chosen = [override.format(world=world) for override in overrides]
    assert message in said(world, monkeypatch, capsys, tmp_path / "out", *chosen)


def test_a_finished_folder_is_left_alone(world, tmp_path, capsys):
    words = ["--strategy=perturb", "--perturber=diffpo.annotators.SwapWords"]
    first = caption(world, tmp_path / "out", *words)
    capsys.readouterr()
    assert caption(world, tmp_path / "out", *words) == first
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} was finished already, nothing was captioned.")


@pytest.mark.parametrize("name", ["caption", "caption_tiny"])
def test_a_config_parses_and_its_resolved_form_is_itself(name, tmp_path):
    chosen, settings = parse(caption_pairs.main, [f"--config=configs/annotate/{name}.yaml", "--output_dir=out"])
    (tmp_path / "config.yaml").write_text(settings)
    assert parse(caption_pairs.main, [f"--config={tmp_path / 'config.yaml'}"])[1] == settings
    if name == "caption":
        assert isinstance(chosen["captioner"], ChatCaptioner)
        assert isinstance(chosen["perturber"], Dipper)
        assert (chosen["strategy"], chosen["strength"]) == (Strategy.caption, Strength.weak)


def test_the_recipe_of_the_tiny_world_says_the_same_in_other_words():
    chosen, _ = parse(caption_pairs.main, ["--config=configs/annotate/caption_tiny.yaml", "--output_dir=out"])
    prompts = [row["caption"] for row in chosen["source"].open().select_columns("caption").select(range(200))]
    said = chosen["perturber"](prompts, chosen["strength"], range(200))
    assert all(read_caption(one) == read_caption(other) for one, other in zip(said, prompts, strict=True))
    assert sum(one != other for one, other in zip(said, prompts, strict=True)) > 100


def test_the_second_command_of_the_config_parses():
    flags = [
        "--strategy=perturb",
        "--strength=medium",
        "--source=diffpo.data.Columns",
        "--source.path=captioned",
    ]
    columns = "--columns=[caption_chosen, caption_rejected]"
    chosen, _ = parse(
        caption_pairs.main, ["--config=configs/annotate/caption.yaml", *flags, columns, "--output_dir=out"]
    )
    assert chosen["columns"] == ("caption_chosen", "caption_rejected")
