import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation import drawing
from diffpo.diffusion.evaluation.compare import SideBySide, measure_diversity, write_report
from diffpo.diffusion.evaluation.drawing import Sampling
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.report import ModelPair, PictureReport
from diffpo.evaluation.win_rates import list_versions
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, read_caption
from diffpo.lab.shapes.oracle import measure, utility
from diffpo.lab.shapes.scenes import HUES, Scene, random_attributes, random_scene, render
from diffpo.lab.shapes.scorer import Oracle
from diffpo.storage.digests import digest_of, name_exported, read_json

N = 5


class Faithful:
    """A pipeline that renders what the prompt asks for."""

    components: dict = {}

    def to(self, *_):
        return self

    def draw(self, prompt: str, seed: int) -> Image.Image:
        return render(self.scene(prompt, seed))

    def scene(self, prompt: str, seed: int) -> Scene:
        return random_scene(read_caption(prompt), np.random.default_rng(seed))


class Colorblind(Faithful):
    def scene(self, prompt: str, seed: int) -> Scene:
        scene = super().scene(prompt, seed)
        wrong = next(name for name in HUES if name != scene.attributes.color)
        return replace(scene, attributes=replace(scene.attributes, color=wrong))


class Noise(Faithful):
    def draw(self, prompt: str, seed: int) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(256, size=(32, 32, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


@pytest.fixture(autouse=True)
def drawn_by_hand(monkeypatch):
    """Pipelines of this file draw without latents."""

    def generate(pipeline, prompts, seeds, *_, **__):
        return [pipeline.draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    monkeypatch.setattr(drawing, "generate_pictures", generate)


def evaluate(folder, n_prompts: int = N, pictures: int = 2, seed: int = 7, **pipelines) -> dict:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"prompt": EVALUATION_FAMILY(random_attributes(rng))}) for _ in range(N)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    asked, sampling = (
        Prompts(str(folder / "prompts.jsonl"), count=n_prompts),
        Sampling(pictures, steps=3, first_seed=50),
    )
    SideBySide(asked, [Oracle()], sampling)(pipelines, folder, seed)
    return json.loads((folder / "report.json").read_text())


def test_the_report_follows_its_schema(tmp_path):
    report = evaluate(tmp_path, base=Colorblind(), tuned=Faithful())
    top = {"seed", "n_prompts", "pictures", "guidance", "steps", "seconds", "versions", "scorers", "models", "pairs"}
    top |= {"warnings", "guidance_sweep", "frechet"}
    assert top == PictureReport.__annotations__.keys()
    summary = {"win_rate", "win_rate_low", "win_rate_high"}
    summary |= {f"{key}_{name}" for key in ("attributes", "style") for name in ("base", "tuned")}
    assert report.keys() == top | summary
    assert (report["seed"], report["n_prompts"], report["steps"]) == (7, N, 3)
    assert report["versions"] == list_versions()
    assert report["models"].keys() == {"base", "tuned"}
    assert report["models"]["tuned"].keys() >= {"attributes", "style", "scores", "diversity"}
    assert report["models"]["tuned"]["scores"]["oracle"].keys() == {"mean", "median"}
    [pair] = report["pairs"]
    assert pair.keys() == {"a", "b", "metric", "win_rate", "win_rate_low", "win_rate_high"}
    assert pair.keys() == ModelPair.__required_keys__  # lengths are of texts
    assert (pair["a"], pair["b"], pair["metric"]) == ("tuned", "base", "oracle")


def test_a_model_that_is_always_better_wins_all(tmp_path):
    report = evaluate(tmp_path, base=Noise(), tuned=Faithful())
    assert (report["win_rate"], report["win_rate_low"], report["win_rate_high"]) == (1.0, 1.0, 1.0)
    assert (report["attributes_base"], report["attributes_tuned"]) == (0.0, 1.0)
    assert report["style_base"] == 0.0 < report["style_tuned"]


def test_a_model_is_even_with_itself(tmp_path):
    report = evaluate(tmp_path, base=Faithful(), tuned=Faithful())
    assert (report["win_rate"], report["win_rate_low"], report["win_rate_high"]) == (0.5, 0.5, 0.5)
    base, tuned = (report["models"][name] | {"source": "", "folder": "", "listing": ""} for name in ("base", "tuned"))
    assert base == tuned


def test_numbers_are_fractions_of_what_is_stated(tmp_path):
    report = evaluate(tmp_path, base=Colorblind(), tuned=Faithful())
    stated = [4 + (read_caption(p["prompt"]).size is not None) for p in shown(tmp_path, "base")]
    assert report["attributes_base"] == pytest.approx(np.mean([(n - 1) / n for n in stated]))
    assert all(0 <= model["style"] <= 1 for model in report["models"].values())


def shown(folder, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "evaluation" / name / "prompts.jsonl").read_text().splitlines()]


def test_pictures_and_prompts_are_kept(tmp_path):
    evaluate(tmp_path, base=Colorblind(), tuned=Faithful())
    for name in ("base", "tuned"):
        lines = shown(tmp_path, name)
        files = sorted((tmp_path / "evaluation" / name).glob("*.png"))
        assert [file.name for file in files] == [f"{i:05d}.png" for i in range(2 * N)]
        for file, line in zip(files, lines, strict=True):
            assert line["scores"]["oracle"] == utility(measure(Image.open(file)), read_caption(line["prompt"]))


def test_all_models_draw_the_same_prompts_from_the_same_seeds(tmp_path):
    evaluate(tmp_path, base=Noise(), tuned=Noise())
    for i in range(2 * N):
        base, tuned = (Image.open(tmp_path / "evaluation" / name / f"{i:05d}.png") for name in ("base", "tuned"))
        assert base.tobytes() == tuned.tobytes()
    assert [line["prompt"] for line in shown(tmp_path, "base")] == [
        line["prompt"] for line in shown(tmp_path, "tuned")
    ]


def test_diversity_is_the_distance_between_pictures_of_a_prompt(tmp_path):
    class Fixed(Faithful):
        def draw(self, prompt: str, seed: int) -> Image.Image:
            return Image.new("RGB", (32, 32), (255, 255, 255) if seed % 2 else (0, 0, 0))

    class Same(Faithful):
        def draw(self, prompt: str, seed: int) -> Image.Image:
            return super().draw(prompt, 0)

    models = evaluate(tmp_path, base=Fixed(), tuned=Same())["models"]
    assert (models["base"]["diversity"], models["tuned"]["diversity"]) == (1.0, 0.0)


def test_one_picture_per_prompt_has_no_diversity(tmp_path, capsys):
    report = evaluate(tmp_path, pictures=1, base=Noise(), tuned=Faithful())
    assert report["models"]["base"]["diversity"] is None
    assert "tuned" in capsys.readouterr().out


def test_every_pair_of_models_is_compared(tmp_path):
    report = evaluate(tmp_path, base=Noise(), sft=Colorblind(), tuned=Faithful())
    rates = {(pair["a"], pair["b"]): pair["win_rate"] for pair in report["pairs"]}
    assert rates == {("sft", "base"): 1.0, ("tuned", "base"): 1.0, ("tuned", "sft"): 1.0}


def test_without_a_tuned_model_there_is_no_summary(tmp_path):
    assert "win_rate" not in evaluate(tmp_path, base=Faithful(), other=Noise())


def test_the_sheet_and_the_listings_are_named_with_their_digests(tmp_path):
    evaluate(tmp_path, base=Colorblind(), tuned=Faithful())
    listings = [f"evaluation/{name}/prompts.jsonl" for name in ("base", "tuned")]
    for file in (tmp_path / name for name in ("report.json", "before_after.png", *listings)):
        assert json.loads((file.parent / "files.json").read_text())["files"][file.name] == digest_of(file)


def test_fewer_prompts_can_be_asked_for(tmp_path):
    assert evaluate(tmp_path, n_prompts=2, base=Noise(), tuned=Faithful())["n_prompts"] == 2
    assert len(shown(tmp_path, "base")) == 4


@pytest.mark.parametrize("name", ["report.json", "before_after.png"])
def test_what_cannot_be_written_is_told_in_a_line(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(Refusal, match=rf"{name} could not be written \(.*Is a directory"):
        evaluate(tmp_path, base=Colorblind(), tuned=Faithful())


def test_a_report_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    """A grid of runs takes one that has a report for finished."""
    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_report({"seed": 0}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json.unfinished"]


def test_a_report_that_is_not_what_was_written_is_refused_by_who_reads_it(tmp_path):
    """In a run's folder its digest stands beside those of the weights."""
    (tmp_path / "a.safetensors").write_text("weights")
    name_exported(tmp_path)
    for seed in (0, 1):
        write_report({"seed": seed}, tmp_path)
        assert read_json(tmp_path / "report.json") == {"seed": seed}
    assert set(json.loads((tmp_path / "files.json").read_text())["files"]) == {"a.safetensors", "report.json"}
    (tmp_path / "report.json").write_text('{"seed": 2}')
    with pytest.raises(
        Refusal, match=r"report.json is damaged \(it is not what was written\); .* or remove it and run"
    ):
        read_json(tmp_path / "report.json")


def die(*_):
    raise KeyboardInterrupt


def test_a_page_shows_the_pictures_of_both(tmp_path):
    evaluate(tmp_path, base=Noise(), tuned=Faithful())
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 4 * N


def test_a_judge_that_labeled_the_training_pairs_is_told(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scores.json").write_text(json.dumps(Oracle().identity))
    source = {"class_path": "diffpo.data.Columns", "init_args": {"path": str(tmp_path / "data")}}
    settings = {"data": {"source": source, "rows": [{"class_path": "diffpo.data.ScoreLabel"}]}}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    [warning] = evaluate(tmp_path, base=Noise(), tuned=Faithful())["warnings"]
    assert warning.startswith("tuned was trained on labels of oracle")
    assert f"warning: {warning}" in capsys.readouterr().out


def test_before_and_after_stand_below_each_other(tmp_path):
    evaluate(tmp_path, base=Noise(), tuned=Faithful())
    assert Image.open(tmp_path / "before_after.png").size == (N * 96, 2 * 96)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such local path"),
        ('{"caption": "a dog"}', "needs columns 'prompt'"),
        ('{"prompt": "a dog"}', "is not a caption of the tiny world"),
        ("a dog", "does not hold prompts"),
    ],
)
def test_prompts_that_cannot_be_judged_are_refused_at_once(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "prompts.jsonl").write_text(text)
    with pytest.raises(Refusal, match=reason):
        SideBySide(Prompts(str(tmp_path / "prompts.jsonl")), [Oracle()])


def test_nothing_to_draw_is_refused():
    with pytest.raises(Refusal, match="at least one picture"):
        Sampling(pictures=0)


def test_an_unreadable_picture_has_no_part_in_diversity(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for file, shade in zip(files, (0, 255, 51, 102), strict=True):
        Image.new("RGB", (8, 8), (shade,) * 3).save(file)
    assert measure_diversity(files, prompts=2) == pytest.approx((1.0 + 0.2) / 2)
    files[0].write_bytes(b"no picture")
    assert measure_diversity(files, prompts=2) == pytest.approx(0.2)


def test_prompts_that_a_scorer_cuts_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Oracle, "count_cut", lambda self, prompts: len(prompts) - 1)
    report = evaluate(tmp_path, base=Colorblind(), tuned=Faithful())
    assert report["scorers"]["oracle"]["cut"] == N - 1
    assert any(f"oracle cuts {N - 1} of {N} prompts" in warning for warning in report["warnings"])
