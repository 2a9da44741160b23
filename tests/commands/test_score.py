import signal
import sys

import datasets
import pytest
import yaml
from brightness import SHARD, Brightness
from shards import png
from started import HELPERS, started
from tiny import pair_folder

from diffpo.cli.command import launch, parse
from diffpo.commands import score as score_pairs
from diffpo.data.layouts import Columns, PairFolder
from diffpo.diffusion.annotate import shards as pair_shards
from diffpo.scorers.pickscore import PickScore


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Six pairs that one process began to score until it was killed, and that two processes went on with."""
    root = tmp_path_factory.mktemp("killed")
    work = [HELPERS / "brightness.py", pair_folder(root / "pairs"), root / "out", root / "log"]
    assert started(*work, 3) == [-signal.SIGKILL]
    (root / "before").write_text((root / "log").read_text())
    assert started(*work, 0, processes=2) == [0, 0]
    return root


def test_after_a_kill_nothing_is_scored_again(killed):
    scored = (killed / "log").read_text().splitlines()
    assert len((killed / "before").read_text().splitlines()) == 4
    assert len(scored) == len(set(scored)) == 12


def test_two_processes_share_what_is_left(killed):
    calls = [int(file.read_text()) for file in killed.glob("log.*")]
    assert sorted(calls) == [2, 2, 3]  # of two pictures each; the third call of the first process was its last


def test_files_are_those_of_one_process_that_was_never_stopped(killed, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_shards, "SHARD", SHARD)
    score_pairs.main(Brightness(), PairFolder(str(killed / "pairs")), tmp_path / "out", batch_size=2)
    one, two = ({file.name: file.read_bytes() for file in (root / "out").glob("[!.]*")} for root in (tmp_path, killed))
    assert sorted(one) == [
        "config.yaml",
        "files.json",
        "scores.json",
        *(f"train-0000{n}-of-00003.parquet" for n in range(3)),
    ]
    assert one == two


def said(monkeypatch, capsys, tmp_path, *overrides: str) -> str:
    """What the script says when it stops with an error."""
    pairs = tmp_path / "pairs"
    first = ["--scorer=brightness.Brightness", "--source=diffpo.data.PairFolder", f"--source.path={pairs}"]
    monkeypatch.setattr(sys, "argv", ["score_pairs.py", *first, f"--output_dir={tmp_path / 'out'}", *overrides])
    with pytest.raises(SystemExit):
        launch(score_pairs.main)
    told = capsys.readouterr().err
    return told[told.rindex("error: ") :]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--scorer=diffpo.scorers.PickScore", "--scorer.path=no/such"], "'no/such'"),
        (["--source.path=no/such/pairs"], "There is no no/such/pairs, which was named as a folder of pairs"),
        (
            ["--output_dir=assets"],
            "output_dir assets is not empty: it holds before_after.png, benchmark.json",
        ),
        (["--scorer.speed=9"], "speed"),
        (["--batch_size=0"], "batch_size must be at least 1, got 0"),
    ],
    ids=["weights", "source", "output_dir", "option", "batch"],
)
def test_bad_input_is_told_in_a_line(tmp_path, monkeypatch, capsys, overrides, message):
    pair_folder(tmp_path / "pairs", n=1)
    assert message in said(monkeypatch, capsys, tmp_path, *overrides)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            ["diffpo.data.PickAPic"],
            "PickAPic needs columns 'caption', 'jpg_0', 'jpg_1', 'label_0', the table has",
        ),
        (["diffpo.data.Columns"], "1 of 2 rows have no prompt (it is null), the first is row 1"),
        (["diffpo.data.Unpaired", "--source.image=chosen"], "has rows of k = 1, a pair has k = 2 candidates"),
    ],
    ids=["columns", "prompts", "unpaired"],
)
def test_data_that_are_no_pairs_are_told_in_a_line(tmp_path, monkeypatch, capsys, source, message):
    unpaired = message.startswith("has rows")
    data = {
        "chosen": [png()] * 2,
        "rejected": [png()] * 2,
        "label": [1, 0],
        "prompt": ["p", "q" if unpaired else None],
    }
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    named = [f"--source={source[0]}", f"--source.path={tmp_path / 'a.parquet'}", *source[1:]]
    assert message in said(monkeypatch, capsys, tmp_path, *named)


def test_the_script_says_what_was_found_and_how_to_go_on(tmp_path, capsys):
    source = PairFolder(str(pair_folder(tmp_path / "pairs", n=1)))
    score_pairs.main(Brightness(), source, tmp_path / "out", settings="seed: 0\n")
    told = capsys.readouterr().out
    assert told.startswith("1 pairs scored by brightness (none) from 1")
    assert told.endswith(f"--data.source=diffpo.data.Columns --data.source.path={tmp_path / 'out'}\n")
    score_pairs.main(Brightness(), source, tmp_path / "out", settings="seed: 1\n")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} was finished already, nothing was scored.")
    assert (tmp_path / "out" / "config.yaml").read_text() == "seed: 0\n"


def test_the_config_parses_and_its_resolved_form_is_itself(tmp_path):
    chosen, settings = parse(score_pairs.main, ["--config=configs/annotate/score.yaml", "--output_dir=out"])
    assert isinstance(chosen["scorer"], PickScore)
    (tmp_path / "config.yaml").write_text(settings)
    assert parse(score_pairs.main, [f"--config={tmp_path / 'config.yaml'}"])[1] == settings
    assert yaml.safe_load(settings)["rows"] is None


def test_the_script_says_what_the_scorer_did_not_read_and_which_captions_it_read(tmp_path, capsys):
    data = {"prompt": [["one two three", "four"], ["five"]], "chosen": [png()] * 2, "rejected": [png("blue")] * 2}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    score_pairs.main(Short(), Columns(str(tmp_path / "a.parquet")), tmp_path / "out")
    told = capsys.readouterr().out
    assert "; 1 of 2 prompts are longer than it reads and were cut; 1 pairs have several captions (" in told


class Short(Brightness):
    """Reads two words."""

    def count_cut(self, prompts):
        return sum(len(prompt.split()) > 2 for prompt in prompts)


def test_texts_are_scored_by_the_same_command(tmp_path, capsys):
    rows = [{"prompt": "a red circle:", "chosen": "a red circle on the top, white background", "rejected": "a circle"}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "pairs.parquet"))
    words = ["--scorer=diffpo.lab.RewriteOracle", "--source=diffpo.data.Columns"]
    words += [f"--source.path={tmp_path}/pairs.parquet", f"--output_dir={tmp_path}/out"]
    launch(score_pairs.main, words)
    said = capsys.readouterr().out
    assert "2 answers scored by oracle (diffpo.tinyworld.language.oracle) from -1 to " in said
    assert "the chosen side scores higher in 100.0%; 0 could not be rated. 1 of 1 rows were kept." in said
    assert f"--data.source=diffpo.data.Columns --data.source.path={tmp_path}/out/train.parquet" in said
    launch(score_pairs.main, words)
    assert "was finished already, nothing was scored" in capsys.readouterr().out
