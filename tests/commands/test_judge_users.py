import sys

import pytest
from tiny_embedders import compared
from tiny_judges import Bright, drawn

from diffpo.annotators.user_judges.chat import ChatUserJudge
from diffpo.cli.command import launch, parse
from diffpo.commands import judge_users
from diffpo.data.layouts import Columns
from diffpo.lab.users.tastes import Population, Taste


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pairs of two users, their tastes, and what two models drew for them."""
    root = tmp_path_factory.mktemp("world")
    compared(root / "pairs.parquet", {"ann": 3, "bob": 3})
    Population({"ann": Taste(vividness=1.0)}, {"bob": Taste(vividness=1.0)}).write(root / "users.json")
    drawn(root / "ours", {"ann": ["white"], "bob": ["white"]})
    drawn(root / "theirs", {"ann": ["black"], "bob": ["black"]})
    return root


def arguments(world, output_dir, *overrides: str) -> list[str]:
    return [
        "--judge=diffpo.lab.UserOracle",
        f"--judge.tastes={world / 'users.json'}",
        "--source=diffpo.data.Columns",
        f"--source.path={world / 'pairs.parquet'}",
        f"--output_dir={output_dir}",
        "--shots=2",
        *overrides,
    ]


def judged(world, output_dir, judge) -> None:
    source, models = Columns(str(world / "pairs.parquet")), (world / "ours", world / "theirs")
    judge_users.main(judge, source, output_dir, models, shots=2)


def test_a_judge_is_tested_and_compares_models(world, tmp_path, capsys):
    judged(world, tmp_path / "out", Bright())
    told = " ".join(capsys.readouterr().out.split())
    assert "labeled pairs 2 100.0% [100.0%, 100.0%] 2 2 0 0 " in told
    assert "models 2 100.0% [100.0%, 100.0%] 2 2 0 0 " in told
    assert "warning" not in told
    judged(world, tmp_path / "out", Bright())
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} was finished already, nothing was judged.")
    left = {file.name for file in (tmp_path / "out").glob("[!.]*")}
    assert left == {"report.json", "verdicts.jsonl", "config.yaml", "files.json"}


def test_a_judge_that_may_be_guessing_is_told(world, tmp_path, capsys):
    judged(world, tmp_path / "out", Bright({"ann": 1, "bob": 2}))
    assert "warning: on labeled pairs the judge is right in 50.0%, which may be chance" in capsys.readouterr().out


def test_a_judge_that_was_not_tested_is_told(world, tmp_path, capsys):
    source, models = Columns(str(world / "pairs.parquet")), (world / "ours", world / "theirs")
    judge_users.main(Bright(), source, tmp_path / "out", models, shots=2, labeled=0)
    assert "warning: the judge was not tested on labeled pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--user=who"], "user names the column 'who', the source has"),
        (["--shots=9"], "None of 2 users in column 'user_id' has more than 9 pairs"),
        (
            ["--models=[{world}/ours, {world}/nowhere]"],
            "nowhere, which was named as pictures for users",
        ),
        (["--models=[{world}/ours, {world}/theirs]", "--shots=4"], "User 'ann' has 3 pairs with a winner"),
        (["--judge.tastes={world}/pairs"], "tastes of users"),
        (["--batch_size=-1"], "batch_size must be at least 1, got -1"),
    ],
    ids=["column", "shots", "pictures", "support", "judge", "batch"],
)
def test_bad_input_is_told_in_a_line(world, tmp_path, monkeypatch, capsys, overrides, message):
    chosen = [override.replace("{world}", str(world)) for override in overrides]
    monkeypatch.setattr(sys, "argv", ["judge_users.py", *arguments(world, tmp_path / "out", *chosen)])
    with pytest.raises(SystemExit):
        launch(judge_users.main)
    told = capsys.readouterr().err
    assert message in told[told.rindex("error: ") :]


def test_the_config_parses_and_its_resolved_form_is_itself(tmp_path):
    chosen, settings = parse(judge_users.main, ["--config=configs/annotate/judge.yaml", "--output_dir=out"])
    (tmp_path / "config.yaml").write_text(settings)
    assert parse(judge_users.main, [f"--config={tmp_path / 'config.yaml'}"])[1] == settings
    assert type(chosen["judge"]) is ChatUserJudge
