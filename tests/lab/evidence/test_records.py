"""A contest in miniature, on the tiny world: what its runs leave, and what goes on from that."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from diffpo.cli.command import parse
from diffpo.commands import encode, evidence, train
from diffpo.core.refusal import Refusal
from diffpo.lab.evidence.cost import count_evaluations
from diffpo.lab.evidence.programs import programs
from diffpo.lab.evidence.records import Runs, digest_place, name_folder
from diffpo.train.fit import Learner

SFT = "--objective=diffpo.diffusion.methods.SFT"
SHORT = ["--fit.steps=2", "--fit.batch_size=2", "--fit.per_device_batch_size=2", "--fit.save_every=1"]
FEW = ["--evaluation.prompts.count=2", "--evaluation.sampling.steps=1", "--evaluation.sampling.pictures=1"]
DRAWN = ["--validation.every=1", "--validation.pairs=2", "--validation.drawn.scorer=diffpo.lab.Oracle"]
DRAWN += [
    "--validation.drawn.prompts.path=assets/tiny-prompts/development.jsonl",
    "--validation.drawn.prompts.count=2",
]
DRAWN += ["--validation.drawn.steps=1", "--validation.keep_best.metric=drawn_win_rate"]
DRAWN += ["--validation.keep_best.better=higher"]
FAR = ["--evaluation.frechet.reference=diffpo.lab.SceneRenders", "--evaluation.frechet.reference.count=4"]
FAR += ["--evaluation.frechet.encoder=diffpo.scorers.CLIPScore", "--evaluation.frechet.encoder.path=assets/tiny-clip"]
GRID = {
    "config": "configs/quickstart.yaml",
    "also": ["--preview=null", "--evaluation.base_pictures={output}/base", *SHORT, *FEW, *DRAWN],
    "measure": FAR,
    "aspects": {"attributes": "{:.1%}", "frechet": "{:.2f}"},
    "methods": {"sft": [SFT], "guarded": []},
    "seeds": [0],
    "baseline": "sft",
    "rival": "guarded",
    "tune": {
        "seed": 7,
        "also": ["--evaluation.prompts.path=assets/tiny-prompts/development.jsonl"],
        "values": {"guarded": {"objective.loss.beta": [100, 500]}},
    },
}
COMMANDS = {"train": train.main, "encode": encode.main}


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """Runs that a grid starts, by name: in this process, which spares each the seconds that Python takes to begin."""
    names = []

    def run(command, **_):
        verb, *words = command[3:]
        chosen, settings = parse(COMMANDS[verb], words)
        names.append(Path(chosen["output_dir"]).name)
        COMMANDS[verb](**chosen, settings=settings)

    monkeypatch.setattr(programs, "run", run)
    return names


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A config that encodes a few pairs."""
    root = tmp_path_factory.mktemp("few")
    (root / "pairs").mkdir()
    [first, *_] = sorted(Path("assets/tiny-pairs").glob("*.parquet"))
    parquet.write_table(parquet.read_table(first).slice(0, 24), root / "pairs" / first.name)
    config = yaml.safe_load(Path("configs/encode/tiny.yaml").read_text())
    config["data"]["source"]["init_args"]["path"] = str(root / "pairs")
    (root / "encode.yaml").write_text(yaml.safe_dump(config))
    return root / "encode.yaml"


def tabulate(root: Path, grid: dict, out: str, records: str) -> bytes:
    (root / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    evidence.main(root / "grid.yaml", root / out, jobs=1, record=root / records)
    return (root / out / "table.md").read_bytes()


def test_a_contest_that_was_killed_goes_on_and_from_its_records_alone_gives_the_same_table(
    tmp_path, started, monkeypatch, few
):
    """The last run of four dies in its second step.

    Each is judged by what it draws of development prompts after each step, and the best weights are what counts.
    """
    grid = GRID | {"encode": str(few)}
    whole = tabulate(tmp_path, grid, "whole", "whole-records")
    for run in ("sft-0", "guarded-0"):
        lines = [json.loads(line) for line in (tmp_path / "whole" / run / "metrics.jsonl").read_text().splitlines()]
        rates = {line["step"]: x for line in lines if (x := line.get("validation/drawn_win_rate")) is not None}
        best = json.loads((tmp_path / "whole-records" / "grid" / f"{run}.json").read_text())["numbers"]["best"]
        assert list(rates) == [1, 2]
        assert best["step"] == max(rates, key=lambda step: (rates[step], -step))
        assert best == json.loads((tmp_path / "whole" / run / "report.json").read_text())["best"]
    [head, _, *rows] = whole.decode().splitlines()
    assert head.endswith("| attributes | frechet |")
    assert all(float(row.split("|")[-2]) > 0 for row in rows)
    tried = json.loads((tmp_path / "whole-records/grid/tuning/guarded-100-7.json").read_text())
    assert "frechet" not in tried["numbers"]["models"]["tuned"]  # what is measured besides is measured of the table
    update, steps = Learner.update, []

    def dying(self, *arguments):
        steps.append(None)
        if len(steps) >= 8:
            raise KeyboardInterrupt
        update(self, *arguments)

    started.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            tabulate(tmp_path, grid, "out", "records")
    assert started == ["encoded", "guarded-100-7", "guarded-500-7", "encoded", "sft-0", "guarded-0"]
    left = sorted(str(file.relative_to(tmp_path / "records")) for file in tmp_path.glob("records/grid/**/*.json"))
    assert left == ["grid/sft-0.json", "grid/tuning/guarded-100-7.json", "grid/tuning/guarded-500-7.json"]
    shutil.rmtree(tmp_path / "out" / "tuning")
    shutil.rmtree(tmp_path / "out" / "sft-0")

    started.clear()
    assert tabulate(tmp_path, grid, "out", "records") == whole
    assert started == ["encoded", "guarded-0"]
    shutil.rmtree(tmp_path / "out")
    assert tabulate(tmp_path, grid, "elsewhere", "records") == whole
    assert started == ["encoded", "guarded-0"]
    records = [*tmp_path.glob("records/grid/**/*.json")]
    for record in records:
        as_whole = tmp_path / "whole-records" / record.relative_to(tmp_path / "records")
        assert json.loads(record.read_text())["numbers"] == json.loads(as_whole.read_text())["numbers"]
    assert len(records) == 4
    assert max(file.stat().st_size for file in records) < 8000

    other = grid | {"also": [*GRID["also"], "--fit.warmup=1"]}
    with pytest.raises(Refusal, match=r"guarded-100-7.json is of a run with another overrides .* delete it to run"):
        tabulate(tmp_path, other, "elsewhere", "records")


def test_what_a_record_was_made_of_is_compared(tmp_path):
    asked = {"overrides": ["--a=1"], "seed": 0, "files": {"assets/tiny-sd": "abc"}}
    runs = Runs(tmp_path / "out", tmp_path / "records")
    runs.write("dpo-0", {"asked": asked, "config": {"fit": {"steps": 3}, "seed": 0}, "numbers": {}})
    assert not runs.is_recorded("dpo-1", asked, {})
    assert runs.is_recorded("dpo-0", asked, {"fit.steps": 3, "seed": 5, "output_dir": "x"})
    assert runs.is_recorded("dpo-0", asked, {"fit.steps": 3, "base.later": False})  # an option that came later
    for changed, expected, told in (
        (asked | {"files": {"assets/tiny-sd": "abd"}}, {}, "files.assets/tiny-sd"),
        (asked | {"overrides": []}, {}, "overrides"),
        (asked, {"fit.steps": 4}, "fit.steps"),
    ):
        with pytest.raises(Refusal, match=f"dpo-0.json is of a run with another {told} than"):
            runs.is_recorded("dpo-0", changed, expected)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"asked": {}}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "dpo-0.json").write_text(content)
    with pytest.raises(Refusal, match=r"dpo-0.json is damaged"):
        Runs(tmp_path, tmp_path).is_recorded("dpo-0", {}, {})


def test_files_and_folders_are_known_by_what_is_in_them(tmp_path):
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(content)
    one, same, other = (digest_place(str(tmp_path / name)) for name in "abc")
    assert one == same != other
    assert digest_place(str(tmp_path / "a" / "x")) != digest_place(str(tmp_path / "c" / "x"))


def test_only_the_folder_of_a_grid_and_what_lies_in_it_become_placeholders():
    config = {"output_dir": "out", "paths": ["out/encoded", "outer", "without"], "lr": 1.0}
    named = {"output_dir": "{output}", "paths": ["{output}/encoded", "outer", "without"], "lr": 1.0}
    assert name_folder(config, "out") == named


@pytest.mark.parametrize(("more", "cost"), [([SFT], 1), ([], 4)], ids=["SFT", "guarded"])
def test_the_cost_of_a_method_is_what_its_networks_see_for_a_pair(tmp_path, more, cost):
    """SFT draws noise on winners alone; DPO needs both sides of policy and reference."""
    words = ["--config=configs/quickstart.yaml", *SHORT, *more, f"--output_dir={tmp_path}"]
    assert count_evaluations(train.main, words) == cost


def test_the_cost_is_a_number_in_a_file_of_a_record(tmp_path):
    (tmp_path / "seen" / "evaluation").mkdir(parents=True)
    entry = {"attributes": 1.0}
    for name in ("base", "tuned"):
        (tmp_path / "seen" / "evaluation" / name).mkdir()
        listing = tmp_path / "seen" / "evaluation" / name / "prompts.jsonl"
        listing.write_text(json.dumps({"scores": {"oracle": 1.0}}))
    report = {"n_prompts": 1, "models": {"base": entry, "tuned": entry}, "versions": {}}
    (tmp_path / "seen" / "report.json").write_text(json.dumps(report))
    (tmp_path / "seen" / "cost.json").write_text("4.0\n")
    assert Runs(tmp_path).numbers("seen")["cost"] == 4.0
