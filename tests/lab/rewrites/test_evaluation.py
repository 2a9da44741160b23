import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_text import language_model

from diffpo.core.refusal import Refusal
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.report import RewriteReport
from diffpo.lab.evidence.records import oracle
from diffpo.lab.rewrites.build import build_tokenizer
from diffpo.lab.rewrites.drawing import Drawing
from diffpo.lab.rewrites.evaluation import Rewriting, diversity, drift
from diffpo.lab.rewrites.writing import Writing
from diffpo.scorers.clip_score import CLIPScore
from diffpo.storage.digests import digest_of
from diffpo.text.model.loading import CausalLM, load_base

ASKED = ["a red circle:", "a blue cross on navy:"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with prompts and two random models."""
    root, tokenizer = tmp_path_factory.mktemp("language"), build_tokenizer()
    for seed, name in enumerate(("base", "other")):
        language_model(seed, len(tokenizer)).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    (root / "prompts.txt").write_text("\n".join(ASKED) + "\n")
    return root


def evaluation(world, **changed) -> Rewriting:
    chosen = {"prompts": Prompts(str(world / "prompts.txt")), "writing": Writing(rewrites=3, tokens=5)} | changed
    return Rewriting(**chosen)


def judged(world, folder, **changed) -> dict:
    base, other = (load_base(CausalLM(str(world / name))) for name in ("base", "other"))
    evaluation(world, **changed)({"base": base, "tuned": other}, folder, 7)
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, judged(world, folder, beside={"same": str(world / "other")})


def lines(folder, name: str) -> list[dict]:
    listing = folder / "evaluation" / name / "prompts.jsonl"
    return [json.loads(line) for line in listing.read_text().splitlines()]


def test_the_report_compares_every_two_models_and_tuned_with_base_at_the_top(finished):
    folder, report = finished
    assert (folder / "report.html").exists()
    assert report.keys() >= RewriteReport.__required_keys__
    assert list(report["models"]) == ["base", "same", "tuned"]
    assert [(pair["a"], pair["b"]) for pair in report["pairs"]] == [
        ("same", "base"),
        ("tuned", "base"),
        ("tuned", "same"),
    ]
    assert report["win_rate"] == report["pairs"][1]["win_rate"]
    assert (report["seed"], report["n_prompts"], report["rewrites"]) == (7, 2, 3)
    assert {"attributes_base", "style_tuned", "versions", "scorers"} <= report.keys()


def test_a_model_ties_with_itself_rewrite_by_rewrite(finished):
    folder, report = finished
    assert lines(folder, "same") == lines(folder, "tuned")
    assert report["pairs"][2]["win_rate"] == 0.5
    assert lines(folder, "base") != lines(folder, "tuned")


def test_every_rewrite_is_listed_prompt_by_prompt_with_what_was_measured(finished):
    folder, report = finished
    listed = lines(folder, "tuned")
    assert [line["prompt"] for line in listed] == [prompt for prompt in ASKED for _ in range(3)]
    means = {name: np.mean([line["scores"][name] for line in listed]) for name in listed[0]["scores"]}
    entry = report["models"]["tuned"]
    assert entry["scores"]["oracle"]["mean"] == pytest.approx(means.pop("oracle"))
    assert {name: entry[name] for name in means} == pytest.approx(means)
    assert means.keys() == {"attributes", "style", "clean", "length", "drift"}


def test_the_runner_of_evidence_reads_the_listing(finished):
    folder, report = finished
    utilities = oracle(folder / "evaluation" / "tuned" / "prompts.jsonl", report["n_prompts"])
    assert utilities.shape == (2, 3)
    assert utilities.mean() == pytest.approx(report["models"]["tuned"]["scores"]["oracle"]["mean"])


def test_with_drawing_the_first_rewrites_become_pictures(world, tmp_path):
    report = judged(world, tmp_path, drawing=Drawing(prompts=1, steps=1))
    listed = lines(tmp_path, "tuned")
    assert [line.get("file") for line in listed] == ["00000.png"] + [None] * 5
    assert [line["scores"]["pictured"] is None for line in listed] == [False] + [True] * 5
    assert report["models"]["tuned"]["pictured"] == listed[0]["scores"]["pictured"]
    assert (tmp_path / "evaluation" / "tuned" / "00000.png").exists()
    for file in (tmp_path / "before_after.png", tmp_path / "evaluation" / "tuned" / "prompts.jsonl"):
        assert json.loads((file.parent / "files.json").read_text())["files"][file.name] == digest_of(file)


def test_a_sheet_of_pictures_that_cannot_be_written_is_told_with_what_to_do(world, tmp_path):
    (tmp_path / "before_after.png").mkdir()
    with pytest.raises(Refusal, match=r"before_after.png could not be written .*move it away"):
        judged(world, tmp_path, drawing=Drawing(prompts=1, steps=1))


def test_drift_grows_with_what_a_rewrite_changes():
    asked = ["a red circle:"] * 3
    rewrites = [
        "a red circle:",
        "a red circle on the left, white background",
        "a blue cross on the left, white background",
    ]
    same, near, far = drift(asked, rewrites, CLIPScore("assets/tiny-clip"))
    assert same == pytest.approx(0, abs=1e-6)
    assert 0 < near < far < 2


def test_diversity_by_hand():
    """{a, red} and {a, blue} share one of three words; equal rewrites share all."""
    assert diversity([["a red", "a blue"], ["a cross, left", "left a cross"]]) == pytest.approx((2 / 3 + 0) / 2)
    assert diversity([["a red"]]) is None


def test_names_of_this_run_cannot_be_given_to_others(world):
    with pytest.raises(Refusal, match="'tuned' cannot be the name of a model beside: something else is called so"):
        evaluation(world, beside={"tuned": str(world / "other")})


def test_a_run_beside_that_is_not_there_is_refused_before_the_run(world, tmp_path):
    with pytest.raises(Refusal, match="a tokenizer"):
        evaluation(world, beside={"sft": str(tmp_path / "nothing")})


def test_prompts_that_the_oracle_cannot_judge_are_refused_before_the_run(world, tmp_path):
    (tmp_path / "prompts.txt").write_text("an astronaut\n")
    with pytest.raises(Refusal, match="is not a caption of the tiny world"):
        replace(evaluation(world), prompts=Prompts(str(tmp_path / "prompts.txt")))


def test_prompts_can_be_asked_in_conversations(world, finished, tmp_path):
    """The first prompt is answered as it is alone, the second one otherwise."""
    folder, _ = finished
    assert judged(world, tmp_path, turns=2)["turns"] == 2
    alone, talked = lines(folder, "base"), lines(tmp_path, "base")
    assert [line["prompt"] for line in talked] == [line["prompt"] for line in alone]
    assert talked[:3] == alone[:3]
    assert talked[3:] != alone[3:]


def test_there_is_at_least_one_turn(world):
    with pytest.raises(Refusal, match="at least one turn"):
        evaluation(world, turns=0)
