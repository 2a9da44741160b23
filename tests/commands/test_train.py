import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from shards import png, shard
from single_file import save_single_file
from tiny import pair_folder, pipeline, saved, saved_xl
from tiny_parts import PART

from diffpo.cli.command import launch, parse
from diffpo.commands import evidence
from diffpo.commands import train as train_diffusion_dpo
from diffpo.diffusion.model.loading import LoadedStableDiffusion
from diffpo.lab.evidence import runner
from diffpo.train.align import RESUMED

ADAPTER = ["--base.adapter=diffpo.diffusion.LoRA", "--base.adapter.rank=2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    pair_folder(root / "pairs")
    (root / "prompts.jsonl").write_text('{"prompt": "a red circle on the left"}\n{"prompt": "a blue cross"}\n')
    saved(root / "base")
    saved_xl(root / "xl")
    save_single_file(pipeline(), root / "single.safetensors")
    return root


@pytest.fixture(autouse=True)
def incomparable(monkeypatch):
    """Grids here name configs that do not exist; what compares their rows is tested with the tables."""
    monkeypatch.setattr(runner, "compared", lambda plan, tries=None: {"common": {}, "rows": {}})


def arguments(world, output_dir, *overrides: str) -> list[str]:
    return [
        "--config=configs/quickstart.yaml",
        f"--base.path={world / 'base'}",
        "--data.source=diffpo.data.PairFolder",
        f"--data.source.path={world / 'pairs'}",
        f"--output_dir={output_dir}",
        "--fit.steps=2",
        "--fit.batch_size=2",
        "--fit.per_device_batch_size=2",
        "--preview.steps=1",
        "--preview.prompts=[a red circle]",
        "--evaluation=null",
        *overrides,
    ]


def train(world, output_dir, *overrides: str) -> None:
    chosen, settings = parse(train_diffusion_dpo.main, arguments(world, output_dir, *overrides))
    train_diffusion_dpo.main(**chosen, settings=settings)


def said(world, output_dir, monkeypatch, capsys, *overrides: str) -> str:
    """What the script says when it stops with an error."""
    monkeypatch.setattr(sys, "argv", ["train_diffusion_dpo.py", *arguments(world, output_dir, *overrides)])
    with pytest.raises(SystemExit) as stopped:
        launch(train_diffusion_dpo.main)
    assert stopped.value.code != 0
    told = capsys.readouterr().err
    return told[told.rindex("error: ") :]


def test_a_run_leaves_all_that_was_promised_and_can_be_continued(world, tmp_path, capsys):
    judge = [
        "--evaluation=diffpo.diffusion.SideBySide",
        f"--evaluation.prompts.path={world}/prompts.jsonl",
    ]
    judge += ["--evaluation.scorers=[diffpo.lab.Oracle]", "--evaluation.sampling.steps=1"]
    train(world, tmp_path / "run", *judge)
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith(
        f"{tmp_path / 'run'} holds report.html, report.json, curves.png, before_after.png, prev"
    )
    assert told[-1].startswith("to load them: from diffusers import StableDiffusionPipeline, UNet2DConditionModel; ")
    promised = {
        "curves.png",
        "unet",
        "README.md",
        "config.yaml",
        "previews",
        "report.json",
        "before_after.png",
        "metrics.jsonl",
    }
    assert promised | {"checkpoint-000002"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert (tmp_path / "run" / "previews" / "step-000000.png").exists()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["models"].keys() == {"base", "tuned"}
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "run", subfolder="unet")
    StableDiffusionPipeline.from_pretrained(world / "base", unet=unet)
    train(world, tmp_path / "run", *judge, "--fit.steps=3", "--resume=latest")
    assert (tmp_path / "run" / "checkpoint-000003").exists()


WITH_PART = "--objective=tiny_parts.LouderPictures"
SAVING = ["--fit.steps=3", "--fit.save_every=1", "--fit.keep=9", "--preview=null"]


def stored(run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoint-{step:06d}" / "trainable.safetensors")


def exported(run) -> dict[str, torch.Tensor]:
    return load_file(run / "unet" / "diffusion_pytorch_model.safetensors")


def test_the_part_that_an_objective_brings_is_trained_stored_and_not_exported(world, tmp_path, monkeypatch):
    """With a moving reference, and killed within the third step, the run ends with the bits of one that was not."""
    args = [WITH_PART, "--reference=diffpo.core.Ema", "--fit.ema=0.5", *SAVING]
    train(world, tmp_path / "whole", *args, "--resume=latest")  # of which there is none: it begins
    name = f"{PART}.weight"
    weights = [float(stored(tmp_path / "whole", step)[name]) for step in (1, 2, 3)]
    assert len(set(weights)) == 3  # the first step warms up
    base = UNet2DConditionModel.from_pretrained(world / "base", subfolder="unet")
    assert (
        exported(tmp_path / "whole").keys()
        == base.state_dict().keys()
        == stored(tmp_path / "whole", 3).keys()
        - {
            name,
            f"{PART}.bias",
        }
    )
    prepare, calls = LoadedStableDiffusion.prepare, []

    def dying(*given):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return prepare(*given)

    with monkeypatch.context() as patched:
        patched.setattr(LoadedStableDiffusion, "prepare", dying)
        with pytest.raises(KeyboardInterrupt):
            train(world, tmp_path / "killed", *args)
    assert not (tmp_path / "killed" / "unet").exists()
    train(world, tmp_path / "killed", *args, "--resume=latest")
    for read in (lambda run: stored(run, 3), exported):
        one, other = (read(tmp_path / run) for run in ("whole", "killed"))
        assert all(torch.equal(one[key], other[key]) for key in one | other)
    cards = [(tmp_path / run / "README.md").read_text() for run in ("whole", "killed")]
    assert [RESUMED in card for card in cards] == [False, True]


def test_a_lora_is_exported_without_the_part_of_an_objective(world, tmp_path):
    train(world, tmp_path / "run", WITH_PART, *ADAPTER, *SAVING)
    names = load_file(tmp_path / "run" / "pytorch_lora_weights.safetensors").keys()
    assert names
    assert not any(PART in name for name in names)
    assert float(stored(tmp_path / "run", 3)[f"{PART}.weight"]) != 1.0


@pytest.mark.parametrize(
    "overrides", [ADAPTER, [*ADAPTER, "--objective=diffpo.diffusion.methods.SFT"]], ids=["DPO", "SFT"]
)
def test_a_lora_run_ends_in_a_lora_that_loads(world, tmp_path, overrides):
    train(world, tmp_path / "run", *overrides, "--preview=null")
    StableDiffusionPipeline.from_pretrained(world / "base").load_lora_weights(tmp_path / "run")
    assert not (tmp_path / "run" / "unet").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        [*ADAPTER, "--objective=diffpo.diffusion.methods.JointGuidance"],
        ["--objective=diffpo.diffusion.methods.SelfNPO", "--reference=diffpo.core.Ema"],
        [
            *ADAPTER,
            "--objective=diffpo.diffusion.methods.SelfNPO",
            "--objective.trajectories=diffpo.diffusion.FromNoise",
            "--objective.trajectories.steps=4",
            "--objective.trajectories.truncated=1",
            "--objective.trajectories.visits=2",
            "--data.source=diffpo.data.PromptsOnly",
            "--data.source.path={prompts}",
        ],
    ],
    ids=["joint guidance", "Self-NPO of pictures", "Self-NPO of prompts"],
)
def test_negative_networks_are_trained(world, tmp_path, overrides):
    train(world, tmp_path / "run", *[text.replace("{prompts}", f"{world}/prompts.jsonl") for text in overrides])
    written = "pytorch_lora_weights.safetensors" if ADAPTER[0] in overrides else "unet"
    assert (tmp_path / "run" / written).exists()


def test_a_lora_on_sdxl_in_epochs_with_held_out_pairs_and_a_dry_run_of_publishing(world, tmp_path, capsys):
    options = ["--fit.steps=null", "--fit.epochs=1", "--validation.share=0.4", "--validation.every=1"]
    options += ["--validation.pairs=4"]
    publish = ["--publish.repo=me/tuned", "--publish.dry_run=true"]
    train(world, tmp_path, f"--base.path={world / 'xl'}", *ADAPTER, *options, *publish)
    assert "me/tuned would get" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "validation/rewards/accuracies" in lines[-1]
    assert "StableDiffusionXLPipeline" in (tmp_path / "README.md").read_text()
    StableDiffusionXLPipeline.from_pretrained(world / "xl").load_lora_weights(tmp_path)


def test_the_best_weights_are_exported_and_the_card_says_so(world, tmp_path):
    judged = ["--validation.share=0.4", "--validation.every=1", "--validation.pairs=4", "--preview=null"]
    train(world, tmp_path / "plain", *judged, *ADAPTER, "--fit.save_every=1", "--fit.ema=null")
    lines = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    first, second = (line["validation/loss"] for line in lines if "validation/loss" in line)
    better = "higher" if first > second else "lower"  # two steps move it by less than CPUs differ
    keep = ["--validation.keep_best.metric=loss", f"--validation.keep_best.better={better}"]
    train(world, tmp_path / "run", *keep, *judged, *ADAPTER, "--fit.save_every=1", "--fit.ema=null")
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    files = [tmp_path / name / "pytorch_lora_weights.safetensors" for name in ("run", "plain")]
    kept, last = ({name: x for name, x in load_file(file).items()} for file in files)
    assert (best["step"], best["metric"], best["last_step"]) == (1, "validation/loss", 2)
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "The weights are those of step 1, where validation/loss was" in card
    assert "The weights are the last of the run." in (tmp_path / "plain" / "README.md").read_text()


def test_a_stream_on_a_single_file_ends_in_a_unet_that_loads(world, tmp_path):
    single = [f"--base.path={world / 'single.safetensors'}", f"--base.config={world / 'base'}"]
    train(world, tmp_path, *single, "--data.stream.buffer=4", "--preview=null")
    UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")


STREAM = ["--data.stream.buffer=4"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--fit.stepz=3"], "stepz"),
        (
            [*STREAM, "--fit.steps=null", "--fit.epochs=1"],
            "A stream does not know how long an epoch is; set fit.steps",
        ),
        (["--fit.epochs=1"], "fit needs steps or epochs, got 2 and 1.0; set the other to null"),
        (["--data.rows+=diffpo.diffusion.MinSize", "--data.rows.side=64"], "No pairs left of 6 rows"),
        (["--base.scheduler.betas=3"], "base.scheduler names betas; DDIMScheduler has beta_end"),
        (["--publish.repo=no good"], "publish.repo 'no good' cannot be a name on the hub"),
        (["--fit.steps=many"], "fit.steps"),
        (["--objective.loss.betta=3"], "betta"),
        (["--data.source.path=no/such/pairs"], "There is no no/such/pairs, which was named as a folder of pairs"),
        (["--base.path=runwayml/stable-diffusion-v1-5"], "use stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (["--base.path=no/such"], "Cannot load a diffusers pipeline from 'no/such'"),
        (["--fit.batch_size=3"], "fit.batch_size 3 is not a multiple"),
        (["--data.rows=[diffpo.data.ScoreLabel]"], "ScoreLabel needs column 'score_chosen'"),
        (
            ["--data.rows+=diffpo.data.ScoreLabel", "--data.rows.recorded=no/such"],
            "ScoreLabel finds no no/such;",
        ),
        (["--optimizer.lr=1e30", "--fit.steps=4"], "stopped being finite"),
        (["--objective=diffpo.diffusion.methods.SmPO"], "Confidence needs labels that are uncertain"),
        (["--objective=diffpo.diffusion.methods.SmPO", *STREAM], "Confidence needs labels that are uncertain"),
        (["--objective.loss=diffpo.diffusion.methods.CaPO"], "CaPO needs calibrated scores"),
        (
            ["--base.adapter=diffpo.diffusion.UserBranch", "--base.adapter={tokens: 1, width: 4}"],
            "UserBranch learns from pairs of which it is told who judged them",
        ),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_a_line(world, tmp_path, monkeypatch, capsys, overrides, message):
    assert message in said(world, tmp_path / "run", monkeypatch, capsys, *overrides, "--preview=null")


def test_a_tar_without_the_expected_keys_is_told_with_those_it_has(world, tmp_path, monkeypatch, capsys):
    shard(tmp_path / "a.tar", [{"left.png": png(), "note.txt": b"a red circle"}])
    source = ["--data.source=diffpo.data.PickAPicShards", f"--data.source.path={tmp_path / 'a.tar'}"]
    for stream in ([], STREAM):
        told = said(world, tmp_path / "run", monkeypatch, capsys, *source, *stream)
        assert "PickAPicShards needs columns" in told
        assert "left.png" in told


def test_a_single_file_without_configs_and_network_is_told_in_a_line(world, tmp_path, monkeypatch, capsys):
    base = f"--base.path={world / 'single.safetensors'}"
    assert "--base.config" in said(world, tmp_path / "run", monkeypatch, capsys, base, "--preview=null")


def test_a_map_that_needs_what_one_of_the_mixed_sources_lacks_names_it(world, tmp_path, monkeypatch, capsys):
    """The scored source alone would do; the other has no scores."""
    shutil.copytree(world / "pairs", tmp_path / "pairs")
    names = [json.dumps({"prompt": "a", "chosen": "chosen/0.png", "rejected": "rejected/0.png", "good": 1.0})]
    (tmp_path / "pairs" / "scored.jsonl").write_text("\n".join(names))
    sources = [
        {"class_path": "diffpo.data.Columns", "init_args": {"path": str(tmp_path / "pairs" / "scored.jsonl")}},
        {"class_path": "diffpo.data.PairFolder", "init_args": {"path": str(world / "pairs")}},
    ]
    mixed = ["--data.source=diffpo.data.Mixed", f"--data.source.sources={json.dumps(sources)}"]
    rows = ['--data.rows=[{"class_path":"diffpo.data.AtLeast","init_args":{"column":"good","value":0.5}}]']
    told = said(world, tmp_path / "run", monkeypatch, capsys, *mixed, *rows, "--preview=null")
    assert "AtLeast needs column 'good'" in told
    assert "PairFolder" in told


def test_a_folder_with_a_run_in_it_is_refused_unless_resumed(world, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoint-000001").mkdir()
    assert "--resume latest" in said(world, tmp_path, monkeypatch, capsys)


def finished(folder, base: list[float], tuned: list[float]) -> None:
    """What the script leaves of a run on two prompts with one picture each."""
    entry = {"attributes": 0.5, "style": 0.25, "diversity": 0.125}
    for name, scores in (("base", base), ("tuned", tuned)):
        (folder / "evaluation" / name).mkdir(parents=True)
        lines = [json.dumps({"prompt": "a", "scores": {"oracle": score}}) for score in scores]
        (folder / "evaluation" / name / "prompts.jsonl").write_text("\n".join(lines))
    (folder / "report.json").write_text(
        json.dumps({"n_prompts": 2, "models": {"base": entry, "tuned": entry}, "versions": {"diffpo": "0"}})
    )


def test_the_table_pools_seeds_and_compares_with_base_and_baseline(tmp_path, monkeypatch, capsys):
    """sft wins 1 and a tie of 4 over base, dpo all; dpo wins 3 and a tie of 4 over sft. Nothing is run again."""
    methods = {"sft": [f"--objective=diffpo.diffusion.{runner.SFT}"], "dpo": []}
    plan = {"config": "none.yaml", "methods": methods, "seeds": [0, 1], "baseline": "sft"}
    (tmp_path / "grid.yaml").write_text(yaml.dump(plan, sort_keys=False))
    (tmp_path / "R.md").write_text("a\n<!-- evidence: grid -->\nold\n<!-- evidence: grid -->\nb\n")
    finished(tmp_path / "sft-0", [0.0, 1.0], [1.0, 1.0])
    finished(tmp_path / "sft-1", [0.0, 1.0], [-1.0, 0.0])
    finished(tmp_path / "dpo-0", [0.0, 1.0], [1.0, 2.0])
    finished(tmp_path / "dpo-1", [0.0, 1.0], [1.0, 2.0])
    monkeypatch.setattr(runner.programs, "run", lambda *a, **k: pytest.fail("a finished run was repeated"))
    evidence.main(tmp_path / "grid.yaml", tmp_path, readme=tmp_path / "R.md", record=tmp_path / "kept")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert rows[3][:4] == ["sft", "37.5 % [0.0, 100.0]", "75.0, 0.0", ""]
    assert rows[4][:4] == ["dpo", "100.0 % [100.0, 100.0]", "100.0, 100.0", "87.5 % [50.0, 100.0]"]
    assert rows[4][4:] == ["50.0 %", "0.250", "0.125"]
    written = (tmp_path / "R.md").read_text()
    assert written.startswith("a\n<!-- evidence: grid -->\n| model")
    assert "old" not in written
    kept = json.loads((tmp_path / "kept" / "grid.json").read_text())
    assert list(kept["rows"]) == ["base", "sft", "dpo"]
    assert kept["rows"]["dpo"]["over_baseline"] == {"rate": 0.875, "low": 0.5, "high": 1.0}
    assert kept["rows"]["dpo"]["over_base_by_seed"] == [1.0, 1.0]
    assert (kept["grid"], kept["versions"]) == (plan, {"diffpo": "0"})


def words(command: list[str]) -> list[str]:
    """What is run of ours, by this Python."""
    assert command[0] == sys.executable
    return command[3:] if command[1:3] == ["-m", "diffpo"] else command[1:]


def commands_of(grid, monkeypatch, **more) -> list[list[str]]:
    """What a grid of two runs of one method would start."""
    commands = []
    monkeypatch.setattr(runner.programs, "run", lambda command, **settings: commands.append(words(command)))
    monkeypatch.setattr(runner, "measured", lambda plan, folder, chosen: {"baseline": "sft", "rows": {}})
    methods = {"sft": [f"--objective={runner.SFT}", "--data.rows.recorded={scores}"]}
    plan = {"config": "a.yaml", "methods": methods, "seeds": [0, 1], "baseline": "sft"} | more
    grid.write_text(yaml.dump(plan))
    evidence.main(grid, grid.parent, jobs=1, record=None)
    return commands


def test_all_runs_of_a_grid_can_read_pairs_that_are_encoded_once(tmp_path, monkeypatch):
    first, *runs = commands_of(tmp_path / "grid.yaml", monkeypatch, encode="b.yaml")
    assert first == ["encode", "--config=b.yaml", f"--output_dir={tmp_path / 'encoded'}"]
    encoded = [
        "--data.source=diffpo.diffusion.EncodedPairs",
        f"--data.source.path={tmp_path / 'encoded'}",
    ]
    assert [run[2:4] for run in runs] == [encoded] * 2


def test_pairs_are_scored_once_and_overrides_can_name_their_scores(tmp_path, monkeypatch):
    first, *runs = commands_of(tmp_path / "grid.yaml", monkeypatch, score="c.yaml")
    folder = tmp_path / "scored"
    assert first == ["score", "--config=c.yaml", f"--output_dir={folder}"]
    assert [run[2:4] for run in runs] == [["--data.source=diffpo.data.Columns", f"--data.source.path={folder}"]] * 2
    assert all(f"--data.rows.recorded={folder}" in run for run in runs)


def test_pairs_are_encoded_with_their_scores(tmp_path, monkeypatch):
    """encode_pairs copies scores.json, so the scored pairs are read no more."""
    _, second, *runs = commands_of(tmp_path / "grid.yaml", monkeypatch, score="c.yaml", encode="b.yaml")
    source = ["--data.source=diffpo.data.Columns", f"--data.source.path={tmp_path / 'scored'}"]
    folder = tmp_path / "encoded"
    assert second == ["encode", "--config=b.yaml", *source, f"--output_dir={folder}"]
    reader = "--data.source=diffpo.diffusion.EncodedPairs"
    assert [run[2:4] for run in runs] == [[reader, f"--data.source.path={folder}"]] * 2
    assert all(f"--data.rows.recorded={folder}" in run for run in runs)


def test_a_grid_without_sft_is_refused(tmp_path):
    plan = {"config": "none.yaml", "methods": {"dpo": []}, "seeds": [0], "baseline": "dpo"}
    (tmp_path / "grid.yaml").write_text(yaml.dump(plan))
    with pytest.raises(SystemExit, match="the baseline of .* is 'dpo'.*has shown nothing"):
        evidence.main(tmp_path / "grid.yaml", tmp_path)


def test_a_grid_can_prepare_its_data_and_name_where_it_is(tmp_path, monkeypatch):
    made = "scripts/caption_pairs.py --columns='[a, b]' --output_dir={output}/captioned"
    methods = {"sft": [f"--objective={runner.SFT}", "--data.source.path={output}/captioned"]}
    first, *runs = commands_of(tmp_path / "grid.yaml", monkeypatch, prepare=[made], methods=methods)
    assert first == ["caption", "--columns=[a, b]", f"--output_dir={tmp_path}/captioned"]
    assert all(f"--data.source.path={tmp_path}/captioned" in run for run in runs)
    again = commands_of(tmp_path / "grid.yaml", monkeypatch, prepare=[made], methods=methods)
    assert again == [[*run, "--resume=latest"] for run in runs]


def test_runs_of_a_grid_share_the_pictures_of_the_base(tmp_path, monkeypatch):
    runs = commands_of(tmp_path / "grid.yaml", monkeypatch)
    assert all(f"--evaluation.base_pictures={tmp_path / 'base'}" in run for run in runs)


def test_a_grid_can_run_another_script_and_say_what_all_its_runs_get(tmp_path, monkeypatch):
    runs = commands_of(tmp_path / "grid.yaml", monkeypatch, script="scripts/train_text_dpo.py", also=["--fit.steps=1"])
    assert [run[:3] for run in runs] == [["train-text", "--config=a.yaml", "--fit.steps=1"]] * 2
    assert not any("--preview=null" in run for run in runs)


def test_what_did_best_on_development_prompts_is_taken_by_all_seeds(tmp_path, monkeypatch):
    """Three values are tried with a seed of their own; the second has the best utility."""
    tuned = {"seed": 9, "also": ["--evaluation.prompts.path=d"], "values": {"sft": {"loss.beta": [0.1, 0.5, 2.0]}}}
    for value, score in ((0.1, 0.0), (0.5, 2.0), (2.0, 1.0)):
        folder = tmp_path / "tuning" / f"sft-{value}-9"
        finished(folder, [0.0, 0.0], [score, score])
        (folder / "report.json").rename(folder / "later.json")  # as if it came from the run
    started = []

    def run(command, **settings):
        (output,) = (Path(word.split("=")[1]) for word in command if word.startswith("--output_dir="))
        started.append((output.name, command))
        if (output / "later.json").exists():
            (output / "later.json").rename(output / "report.json")
        else:
            finished(output, [0.0, 0.0], [1.0, 1.0])

    monkeypatch.setattr(runner.programs, "run", run)
    monkeypatch.setattr(runner, "measured", lambda plan, folder, chosen: {"baseline": "sft", "rows": {}} | chosen)
    plan = {"config": "a.yaml", "methods": {"sft": [f"--objective={runner.SFT}", "--a={output}"]}, "seeds": [0, 1]}
    (tmp_path / "grid.yaml").write_text(yaml.dump(plan | {"baseline": "sft", "tune": tuned}))
    evidence.main(tmp_path / "grid.yaml", tmp_path, jobs=1, record=tmp_path / "kept")
    assert [name for name, _ in started] == ["sft-0.1-9", "sft-0.5-9", "sft-2.0-9", "sft-0", "sft-1"]
    development = ["--evaluation.prompts.path=d" in command for _, command in started]
    assert development == [True] * 3 + [False] * 2
    assert all("--loss.beta=0.5" in command for _, command in started[3:])
    assert all(f"--a={tmp_path}" in command for _, command in started)
    assert json.loads((tmp_path / "kept" / "grid.json").read_text())["tuning"] == {
        "sft": {"sft-0.1": 0.0, "sft-0.5": 2.0, "sft-2.0": 1.0}
    }


def test_a_run_that_the_grid_has_left_behind_is_not_taken_for_its_own(tmp_path, monkeypatch):
    methods = {"sft": [f"--objective={runner.SFT}", "--fit.steps=1"]}
    assert len(commands_of(tmp_path / "grid.yaml", monkeypatch, methods=methods)) == 2
    methods["sft"][1] = "--fit.steps=2"
    with pytest.raises(SystemExit, match="sft-0 was started with other overrides than the grid has now; delete it"):
        commands_of(tmp_path / "grid.yaml", monkeypatch, methods=methods)


def test_users_judge_the_runs_of_each_seed(tmp_path, monkeypatch):
    """One evaluation for each group and seed, told of that seed's models; a user's own name stays to be filled in."""
    models = {"base": {"base": "b"}, "own": {"base": "b", "unet": "{output}/own-{user}-{seed}"}}
    groups = {"held-out": {"models": models, "overrides": ["--tastes={output}/users.json"]}}
    told = {"rows": {}, "between": []}
    monkeypatch.setattr(runner.user_evidence, "pooled", lambda folders: told | {"folders": [f.name for f in folders]})
    commands = commands_of(tmp_path / "grid.yaml", monkeypatch, users={"config": "u.yaml", "groups": groups})
    judged = [command for command in commands if command[0] == "evaluate-users"]
    listed = [f"--config={tmp_path}/held-out-{seed}.yaml" for seed in (0, 1)]
    assert sorted(command[2] for command in judged) == listed
    assert all(f"--tastes={tmp_path}/users.json" in command for command in judged)
    own = yaml.safe_load((tmp_path / "held-out-1.yaml").read_text())["models"][1]
    assert own == {"name": "own", "base": "b", "unet": f"{tmp_path}/own-{{user}}-1"}
