import inspect as signatures

import pytest
from tiny_text_runs import text_files

from diffpo.cli.command import launch
from diffpo.commands import inspect_text, train_text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return text_files(tmp_path_factory.mktemp("texts"))


def arguments(world, *overrides: str) -> list[str]:
    return [
        "--config=configs/text/quickstart.yaml",
        f"--base.path={world / 'base'}",
        f"--data.source.path={world / 'pairs.parquet'}",
        f"--output_dir={world / 'run'}",
        "--fit.steps=4",
        "--fit.batch_size=4",
        "--fit.per_device_batch_size=2",
        *overrides,
    ]


def told(world, capsys, *overrides: str) -> str:
    launch(inspect_text.main, arguments(world, *overrides))
    return capsys.readouterr().out


def test_it_takes_the_options_of_training():
    ours, theirs = (signatures.signature(main).parameters for main in (inspect_text.main, train_text.main))
    assert {name: part.annotation for name, part in theirs.items()} == {n: ours[n].annotation for n in theirs}
    assert ours.keys() - theirs.keys() == {"pairs"}


def test_it_says_what_is_trained_on_what_and_shows_what_counts(world, capsys):
    said = told(world, capsys, "--pairs=2")
    assert "diffpo.text.SequencePreference with diffpo.losses.Sigmoid" in said
    assert "all its weights" in said
    assert "4 steps of 4 pairs (1 processes x 2 x 2 accumulated)" in said
    assert "rows were kept" in said
    assert "(data.max_length 64)" in said
    assert "no checkpoints" in said
    assert said.count("[[") == 1 + 2 * 2
    assert not (world / "run").exists()


def test_texts_that_are_cut_are_counted_over_all_the_data(world, capsys):
    assert "were cut" not in told(world, capsys)
    assert "prompts were cut on the left" in told(world, capsys, "--data.max_prompt_length=1")


def test_answers_that_are_sampled_are_told(world, capsys):
    read = ("--validation.fresh.prompts=2", "--validation.fresh.tokens=9", "--validation.share=0.4")
    said = "fresh       2 held-out prompts, each answered with at most 9 tokens, by which the shift is measured"
    assert said in told(world, capsys, *read)


def test_ordinary_texts_are_counted(world, capsys):
    (world / "ordinary.txt").write_text("one\n\ntwo\n")
    read = (f"--validation.ordinary.path={world / 'ordinary.txt'}", "--validation.share=0.4")
    assert "ordinary    2 texts, by which the capability loss is measured" in told(world, capsys, *read)


def test_what_training_would_refuse_is_refused(world, capsys):
    with pytest.raises(SystemExit):
        launch(inspect_text.main, arguments(world, "--data.max_length=100000"))
    assert "data.max_length 100000 is more than" in capsys.readouterr().err
