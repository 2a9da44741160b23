import inspect
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import yaml
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from diffpo.cli.command import CommandLine, launch, parse
from diffpo.cli.names import list_names
from diffpo.commands.train import main as train
from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.pair import PairLoss
from diffpo.core.refusal import Refusal
from diffpo.data.row_maps import ScoreLabel
from diffpo.data.rows import DropTies
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.losses.combined import Confidence
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO
from diffpo.processes.stopping import SIGNALS, end_in_order
from diffpo.storage.shipped import shipped_root

CONFIG = """
loss:
  class_path: diffpo.losses.Confidence
  init_args:
    inner: {class_path: diffpo.losses.Sigmoid, init_args: {beta: 5000}}
    gamma: 2.0
data:
  source: {class_path: diffpo.data.PickAPic, init_args: {path: pairs}}
  framing: {resolution: 64}
optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.5}}
"""


def program(
    loss: PairLoss,
    data: PairData,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    seed: int = 0,
    settings: str = "",
) -> None:
    """A program."""


def loss_only(loss: PairLoss, settings: str = "") -> None: ...


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def run(monkeypatch, main, *args) -> None:
    monkeypatch.setattr("sys.argv", ["program", *args])
    launch(main)


def test_yaml_becomes_objects(config):
    arguments, _ = parse(program, ["--config", config])
    assert arguments["loss"] == Confidence(inner=Sigmoid(beta=5000.0), gamma=2.0)
    assert arguments["data"].framing == Framing(resolution=64)
    assert arguments["data"].rows == [DropTies()]
    assert arguments["seed"] == 0
    assert "config" not in arguments


def test_a_callable_keeps_its_arguments(config):
    arguments, _ = parse(program, ["--config", config])
    group = arguments["optimizer"]([nn.Parameter()]).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.5)


def test_any_level_can_be_overridden(config):
    override = ["--loss.inner.beta", "7", "--data.framing.resolution", "16", "--optimizer.lr", "0.5", "--seed", "3"]
    arguments, _ = parse(program, ["--config", config, *override])
    assert arguments["loss"] == Confidence(inner=Sigmoid(beta=7.0), gamma=2.0)
    assert arguments["data"].framing.resolution == 16
    assert arguments["optimizer"]([nn.Parameter()]).defaults["lr"] == 0.5
    assert arguments["seed"] == 3


def test_later_files_win_and_leave_the_rest(config, tmp_path):
    (tmp_path / "more.yaml").write_text("seed: 5\ndata: {framing: {flip: false}}\n")
    arguments, _ = parse(program, ["--config", config, "--config", str(tmp_path / "more.yaml")])
    assert arguments["seed"] == 5
    assert arguments["data"].framing == Framing(resolution=64, flip=False)


def test_lists_of_objects_can_be_appended_to(config):
    arguments, _ = parse(program, ["--config", config, "--data.rows+=diffpo.data.ScoreLabel"])
    assert arguments["data"].rows == [DropTies(), ScoreLabel()]


def test_the_dump_loads_to_the_same_arguments(config, tmp_path):
    first, settings = parse(program, ["--config", config, "--seed", "3"])
    (tmp_path / "dump.yaml").write_text(settings)
    again, same = parse(program, ["--config", str(tmp_path / "dump.yaml")])
    assert same == settings
    assert again["optimizer"]([nn.Parameter()]).defaults == first["optimizer"]([nn.Parameter()]).defaults
    assert {**again, "optimizer": None} == {**first, "optimizer": None}


def test_the_dump_states_defaults():
    _, settings = parse(loss_only, ["--loss", "diffpo.losses.Confidence", "--loss.inner", "diffpo.losses.IPO"])
    assert yaml.safe_load(settings) == {
        "loss": {
            "class_path": "diffpo.losses.Confidence",
            "init_args": {
                "inner": {"class_path": "diffpo.losses.IPO", "init_args": {"beta": 0.1}},
                "gamma": 10.0,
            },
        }
    }


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--loss.inner.bta", "7"], "'bta' is not accepted"),
        (["--loss.inner.beta", "much"], r"error: loss\.inner\.beta: expected float, got much\n"),
        (["--loss", "diffpo.losses.logistic.Nope"], "Nope"),
        (["--data.framing.resolution", "wide"], "resolution.*wide"),
        (["--data.framing.resolutoin", "64"], "resolutoin"),
        (["--sed", "1"], "--sed"),
    ],
)
def test_a_wrong_key_or_type_is_named(config, capsys, wrong, named):
    with pytest.raises(SystemExit):
        parse(program, ["--config", config, *wrong])
    assert re.search(named, capsys.readouterr().err, flags=re.DOTALL)


def test_a_missing_argument_is_named(capsys):
    with pytest.raises(SystemExit):
        parse(loss_only, [])
    assert "loss" in capsys.readouterr().err


def test_another_class_starts_from_its_own_defaults(config):
    arguments, _ = parse(program, ["--config", config, "--loss.inner", "diffpo.losses.IPO"])
    assert arguments["loss"].inner == IPO(beta=0.1)
    arguments, _ = parse(program, ["--config", config, "--optimizer", "torch.optim.SGD", "--optimizer.lr", "1.0"])
    assert arguments["optimizer"]([nn.Parameter()]).defaults["weight_decay"] == 0.0


def test_another_class_in_a_later_file_starts_from_its_own_defaults(config, tmp_path):
    (tmp_path / "more.yaml").write_text("loss: {class_path: diffpo.losses.IPO}")
    arguments, _ = parse(program, ["--config", config, "--config", str(tmp_path / "more.yaml")])
    assert arguments["loss"] == IPO(beta=0.1)


def test_the_same_class_keeps_its_arguments(config):
    arguments, _ = parse(program, ["--config", config, "--loss.inner", "diffpo.losses.Sigmoid"])
    assert arguments["loss"].inner == Sigmoid(beta=5000.0)


def test_launch_calls_main_with_objects_and_settings(monkeypatch):
    seen = {}

    def main(loss: PairLoss, settings: str = "") -> None:
        seen.update(loss=loss, settings=settings)

    run(monkeypatch, main, "--loss", "diffpo.losses.IPO")
    assert seen["loss"] == IPO()
    assert yaml.safe_load(seen["settings"])["loss"]["init_args"] == {"beta": 0.1}


def test_a_package_error_is_one_line_and_exit_1(monkeypatch, capsys):
    def main(seed: int = 0, settings: str = "") -> None:
        Framing(resolution=7)

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, main)
    assert capsys.readouterr().err == "error: data.framing.resolution must be a positive multiple of 8, got 7.\n"


def test_an_error_within_a_progress_bar_has_a_line_of_its_own(monkeypatch, capfd):
    def main(seed: int = 0, settings: str = "") -> None:
        for _ in tqdm(range(3)):
            raise Refusal("The disk is full; make room.")

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, main)
    assert capfd.readouterr().err.splitlines()[-1] == "error: The disk is full; make room."


def test_a_value_that_a_constructor_refuses_is_one_line_too(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, loss_only, "--loss", "diffpo.losses.Robust", "--loss.flip_rate", "0.7")
    assert (
        capsys.readouterr().err == "error: Robust needs a flip_rate in [0, 0.5), got 0.7; 0.1 is the usual choice.\n"
    )


def test_so_is_one_that_a_part_refuses_where_null_is_allowed(monkeypatch, capsys):
    def main(framing: Framing | None = None, settings: str = "") -> None: ...

    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, main, "--framing.resolution", "7")
    assert capsys.readouterr().err == "error: data.framing.resolution must be a positive multiple of 8, got 7.\n"


def test_a_fault_inside_the_package_keeps_its_traceback(monkeypatch):
    def main(seed: int = 0, settings: str = "") -> None:
        Draws(0, (0,), (0,)).normal("x", -1)

    with pytest.raises(ValueError, match="negative dimensions"):
        run(monkeypatch, main)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("theirs")])
def test_a_foreign_error_keeps_its_traceback(monkeypatch, error):
    def main(seed: int = 0, settings: str = "") -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run(monkeypatch, main)
    assert caught.value is error


def stopping(loss: int = 0, settings: str = "") -> None:
    os.kill(os.getpid(), loss)


def resumable(loss: int = 0, resume: str | None = None, settings: str = "") -> None:
    with end_in_order("It is kept."):
        os.kill(os.getpid(), loss)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_is_told_in_a_line_that_says_how_it_goes_on(monkeypatch, capfd, number, code):
    before = [signal.getsignal(each) for each in SIGNALS]
    try:
        for main, said, again, resume in (
            (stopping, "", (), ""),
            (resumable, "It is kept. ", (), " --resume=latest"),
            (resumable, "It is kept. ", ("--resume", "somewhere"), " --resume=latest"),
        ):
            with pytest.raises(SystemExit) as left:
                run(monkeypatch, main, "--loss", str(int(number)), *again)
            assert left.value.code == code
            told = capfd.readouterr().err.strip().splitlines()[-1]
            command = f"accelerate launch program --loss {int(number)}{resume}"
            assert told == f"Stopped by {signal.Signals(number).name}. {said}To go on: {command}"
    finally:
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "builtins.exec", "this.X", "antigravity.X", "posix.system"]
)
@pytest.mark.parametrize("where", ["--loss", "--optimizer", "--data.rows+"])
def test_a_class_path_into_python_itself_is_refused_before_it_is_imported(config, capsys, path, where):
    known = set(sys.modules)
    with pytest.raises(SystemExit):
        parse(program, ["--config", config, f"{where}={path}"])
    assert f"Importing '{path}' is not allowed" in capsys.readouterr().err
    assert not {"this", "antigravity"} & (set(sys.modules) - known)


def test_a_class_path_where_any_value_may_stand_builds_nothing(tmp_path):
    @dataclass(frozen=True)
    class Part:
        settings: dict[str, Any]

    def main(part: Part, settings: str = "") -> None: ...

    planted = {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {tmp_path}/ran", "shell": True}}
    harmless = {"class_path": "diffpo.losses.IPO", "init_args": {}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"part": {"settings": {"a": planted, "b": harmless}}}))
    arguments, _ = parse(main, ["--config", str(tmp_path / "config.yaml")])
    assert arguments["part"].settings["a"] == planted
    assert not isinstance(arguments["part"].settings["b"], PairLoss)
    time.sleep(0.1)
    assert not (tmp_path / "ran").exists()


def shown(capsys, *args) -> str:
    """The help of training on pictures, without line breaks and blanks."""
    with pytest.raises(SystemExit):
        CommandLine(train, list(args))
    return re.sub(r"\s", "", capsys.readouterr().out)


def test_help_lists_every_class_of_a_role(capsys):
    listed = shown(capsys, "--help")
    ours = {
        f"{room}.{name}" for name, room in list_names("diffpo.diffusion").items() if is_kind(room, name, Objective)
    }
    assert {"diffpo.diffusion.DenoisingPreference", "diffpo.diffusion.methods.SmPO"} <= ours
    assert all(path in listed for path in ours)
    losses = {
        f"{room}.{name}" for name, room in list_names("diffpo.diffusion").items() if is_kind(room, name, PairLoss)
    }
    nested = shown(capsys, "--objective.help", "DenoisingPreference")
    assert all(path in nested for path in losses if "methods" not in path)


def is_kind(room: str, name: str, role: type) -> bool:
    thing = getattr(import_module(room), name)
    return isinstance(thing, type) and issubclass(thing, role) and not inspect.isabstract(thing)


def test_a_class_needs_no_room():
    assert parse(loss_only, ["--loss", "Confidence", "--loss.inner", "IPO"])[0]["loss"] == Confidence(inner=IPO())


def test_a_prefix_is_no_option(config, capsys):
    with pytest.raises(SystemExit):
        parse(program, ["--config", config, "--see", "1"])
    assert "unrecognized arguments: --see 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("IPOO", "did you mean diffpo.losses.IPO"),
        ("Zzz", "--help lists all options"),
        ("3", "--help lists all options"),
        ("no_such_parts.Sigmoids", "Python finds no no_such_parts; install it, or name the folder"),
    ],
)
def test_a_usage_error_is_the_error_and_one_hint(capsys, wrong, hint):
    with pytest.raises(SystemExit) as left:
        parse(loss_only, ["--loss", wrong])
    *error, last = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2
    assert error[0].startswith("error: ")
    assert last.startswith("hint: ")
    assert hint in last
    assert not any("usage:" in line for line in error)


def test_an_option_that_is_nearly_one_gets_the_close_one(config, capsys):
    with pytest.raises(SystemExit):
        parse(program, ["--config", config, "--data.framing.resolutoin=64"])
    assert capsys.readouterr().err.endswith("hint: did you mean --data.framing.resolution?\n")


def test_an_old_class_path_says_the_new_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "old.yaml").write_text(
        "data: {source: {class_path: diffpo.sources.PickAPic}, rows: [diffpo.rows.DropTies]}"
    )
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, program, f"--config={tmp_path / 'old.yaml'}")
    told = "error: diffpo.sources.PickAPic is diffpo.data.PickAPic now (1 more have moved, too); name it so.\n"
    assert capsys.readouterr().err == told


def test_a_recipe_is_named_from_any_folder_and_what_came_along_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = CommandLine(train, ["--config=quickstart", "--output_dir=out"])
    here = str(shipped_root() / "assets" / "tiny-sd")
    assert yaml.safe_load(line.settings)["base"]["path"] == here
    assert f"assets/tiny-sd is not in this folder; what came along is taken: {here}" in line.taken


def test_where_all_is_there_nothing_is_taken_from_elsewhere(monkeypatch):
    monkeypatch.chdir(shipped_root())
    assert CommandLine(train, ["--config=quickstart", "--output_dir=out"]).taken == []
