import copy
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from diffpo.cli.command import CommandLine, parse
from diffpo.commands import evaluate, evaluate_text, evaluate_users, train_picture_rounds, train_rounds
from diffpo.commands import train as train_diffusion_dpo
from diffpo.commands import train_text as train_text_dpo
from diffpo.lab.evidence import runner
from diffpo.lab.evidence.grid import Program, check_grid
from diffpo.lab.evidence.programs import module_of
from diffpo.lab.evidence.tables import compare_resolved
from diffpo.storage.hub import GONE
from diffpo.train.state.checkpoint import flatten_tree

RECIPES = sorted(
    [*Path("configs").glob("[drt]*/*.yaml"), Path("configs/quickstart.yaml"), Path("configs/diffusion/ppd_tiny.yaml")]
)
SCRIPTS = {
    "text": train_text_dpo.main,
    "diffusion": train_diffusion_dpo.main,
    "rounds": train_rounds.main,
    "rounds_pictures": train_picture_rounds.main,
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def parsed(recipe: Path, *overrides: str) -> tuple[dict, str]:
    """What a recipe makes of the script of its track."""
    script = SCRIPTS.get(recipe.parent.name, train_diffusion_dpo.main)
    return parse(script, [f"--config={recipe}", *overrides, "--output_dir=out"])


@each_recipe
def test_a_recipe_parses_and_its_resolved_form_is_itself(recipe, tmp_path):
    _, settings = parsed(recipe)
    resolved = tmp_path / recipe.parent.name / "config.yaml"
    resolved.parent.mkdir()
    resolved.write_text(settings)
    assert parsed(resolved)[1] == settings


@each_recipe
def test_the_header_names_source_devices_and_the_true_batch(recipe):
    header = " ".join(line[1:] for line in recipe.read_text().splitlines() if line.startswith("#"))
    arguments, _ = parsed(recipe)
    batch = arguments["fit"].batch_size
    assert re.search(r"arXiv:\d{4}\.\d{5}|github\.com/", header)
    assert re.search(r"\d+ (GPU|process)", header)
    assert re.search(rf"\b{batch} pairs", header)
    if layout := re.search(r"(\d+) GPUs x (\d+) pairs x (\d+) accumulated", header):
        devices, each, accumulated = map(int, layout.groups())
        assert each == arguments["fit"].per_device_batch_size
        assert devices * each * accumulated == batch


@each_recipe
def test_no_recipe_names_what_was_deleted_from_the_hub(recipe):
    assert not GONE.keys() & {
        value for value in flatten_tree(yaml.safe_load(recipe.read_text())).values() if str(value) == value
    }


KNOWN: dict = {}  # what the rows of a grid have in common is read once


@pytest.fixture
def _remembered(monkeypatch):
    resolve = CommandLine.so_far

    def so_far(line, args):
        if (key := (line.parser.prog, line.parser.description, *args)) not in KNOWN:
            KNOWN[key] = resolve(line, args)
        return copy.deepcopy(KNOWN[key])

    monkeypatch.setattr(CommandLine, "so_far", so_far)


@cache
def resolved_config(module: str, *args: str) -> dict:
    """Several grids have the same rows."""
    line = CommandLine(import_module(module).main, list(args))
    assert line.arguments()
    return yaml.safe_load(line.settings)


@pytest.mark.usefixtures("_remembered")
@pytest.mark.parametrize("grid", sorted(Path("configs/evidence").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_grid_names_methods_that_parse_and_all_that_makes_them_differ(grid, tmp_path):
    (tmp_path / "scores.json").write_text('{"scorer": "pickscore", "min": 0, "max": 1}')
    text = re.sub(r"\{scores\}|(?<=recorded=)\{output\}/[\w-]+", str(tmp_path), grid.read_text())
    plan = check_grid(yaml.safe_load(text))
    assert plan.baseline in plan.methods
    shared = [*plan.reads, *plan.also, *plan.measure, "--output_dir=out"]
    tries = runner.tuning(plan)
    own = {row: [*overrides, *tries.get(row, [])] for row, overrides in plan.methods.items()}

    def resolved(runs: Program, overrides: list[str]) -> dict:
        return resolved_config(module_of(runs.script), f"--config={runs.config}", *shared, *overrides)

    common = resolved(Program(plan.script, plan.config), [])
    rows = {row: resolved(plan.program_of(row), overrides) for row, overrides in own.items()}
    assert list(compare_resolved(common, rows, own)) == list(plan.methods)


@pytest.mark.parametrize("config", sorted(Path("configs/evaluate").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_evaluation_parses_and_its_resolved_form_is_itself(config, tmp_path):
    others = {"tiny_users": evaluate_users.main, "tiny_text": evaluate_text.main}
    main = others.get(config.stem, evaluate.main)
    _, settings = parse(main, [f"--config={config}", "--output_dir=out"])
    (tmp_path / "config.yaml").write_text(settings)
    assert parse(main, [f"--config={tmp_path / 'config.yaml'}"])[1] == settings
