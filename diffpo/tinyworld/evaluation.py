"""The tiny world's evaluation: every model draws the same prompts from the same seeds, and the oracle judges."""

import json
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.utils import make_image_grid
from PIL import Image

from diffpo.diffusion.sampling import generate
from diffpo.evaluation import Evaluation, versions, win_rate
from diffpo.tinyworld.captions import read_caption
from diffpo.tinyworld.oracle import measure, style, utility


@dataclass(frozen=True)
class OracleEvaluation(Evaluation):
    """Writes `report.json` (fractions, never percent), `before_after.png` and all pictures under `evaluation/`.

    Args:
        prompts: jsonl file with a `prompt` in each line.
        n_prompts: how many of them are drawn.
        pictures: seeds per prompt.
        steps: denoising steps.
        guidance: classifier-free guidance scale, chosen on other prompts.
        first_seed: of the first picture; the others count up.

    Raises:
        ValueError: if there is no such file, or one of its lines holds no caption of the tiny world.
    """

    prompts: str = "assets/tiny-prompts/evaluation.jsonl"
    n_prompts: int = 100
    pictures: int = 2
    steps: int = 25
    guidance: float = 2.5
    first_seed: int = 10_000_000

    def __post_init__(self):
        try:
            judged = [read_caption(prompt) for prompt in self.read_prompts()]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"evaluation.prompts {self.prompts} is no jsonl file with a caption of the tiny world as `prompt` in "
                f"each line ({error}); name one, or set evaluation to null for none."
            ) from error
        if not judged or self.pictures < 1:
            raise ValueError(f"evaluation needs at least one prompt and one picture, got {self}.")

    def read_prompts(self) -> list[str]:
        lines = Path(self.prompts).read_text().splitlines()[: self.n_prompts]
        return [json.loads(line)["prompt"] for line in lines]

    def __call__(self, pipelines: dict[str, Any], output_dir: Path, seed: int) -> None:
        began = time.perf_counter()
        asked = self.read_prompts()
        prompts = [prompt for prompt in asked for _ in range(self.pictures)]
        seeds = range(self.first_seed, self.first_seed + len(prompts))
        drawn, scores, models = {}, {}, {}
        for name, pipeline in pipelines.items():
            drawn[name] = generate(pipeline, prompts, seeds, self.steps, self.guidance, batch_size=50, title=name)
            models[name], scores[name] = self.judge(drawn[name], prompts)
            save_pictures(drawn[name], prompts, scores[name], output_dir / "evaluation" / name)
        pairs = [
            {"a": a, "b": b, "metric": "oracle", **self.compare(scores[a], scores[b])}
            for b, a in combinations(pipelines, 2)
        ]
        report = {
            "seed": seed,
            "n_prompts": len(asked),
            "guidance": self.guidance,
            "steps": self.steps,
            "seconds": round(time.perf_counter() - began, 1),
            "versions": versions(),
            "models": models,
            "pairs": pairs,
        }
        if {"base", "tuned"} <= models.keys():
            against_base = next(pair for pair in pairs if (pair["a"], pair["b"]) == ("tuned", "base"))
            report |= {key: against_base[key] for key in ("win_rate", "win_rate_low", "win_rate_high")}
            for key in ("attributes", "style"):
                report |= {f"{key}_{name}": models[name][key] for name in ("base", "tuned")}
        (output_dir / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        before_after(drawn, self.pictures).save(output_dir / "before_after.png")
        print(table(report))

    def judge(self, pictures: list[Image.Image], prompts: list[str]) -> tuple[dict[str, Any], np.ndarray]:
        """One model's entry of the report, and the utility of each picture."""
        asked = [read_caption(prompt) for prompt in prompts]
        seen = [measure(picture) for picture in pictures]
        scores = np.array([utility(measured, wanted) for measured, wanted in zip(seen, asked, strict=True)])
        pixels = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
        of_a_prompt = pixels.reshape(-1, self.pictures, *pixels.shape[1:])
        others = [abs(of_a_prompt[:, i] - of_a_prompt[:, j]).mean() for i, j in combinations(range(self.pictures), 2)]
        entry = {
            "attributes": float(np.mean([m.right(wanted) for m, wanted in zip(seen, asked, strict=True)])),
            "style": float(np.mean([style(m, wanted) for m, wanted in zip(seen, asked, strict=True)])),
            "clean": float(np.mean([m.clean for m in seen])),
            "scores": {"oracle": {"mean": float(scores.mean()), "median": float(np.median(scores))}},
            "diversity": float(np.mean(others)) if others else None,
        }
        return entry, scores

    def compare(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        rate = win_rate(ours.reshape(-1, self.pictures), theirs.reshape(-1, self.pictures))
        return {"win_rate": rate.rate, "win_rate_low": rate.low, "win_rate_high": rate.high}


def save_pictures(pictures: list[Image.Image], prompts: list[str], scores: np.ndarray, folder: Path) -> None:
    """`00000.png` and so on, with `prompts.jsonl` that also holds what the oracle says of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i:05d}.png")
    lines = [
        json.dumps({"prompt": prompt, "oracle": score}) for prompt, score in zip(prompts, scores.tolist(), strict=True)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def before_after(drawn: dict[str, list[Image.Image]], step: int, columns: int = 12, side: int = 96) -> Image.Image:
    """One row per model, one column per prompt."""
    shown = [row[::step][:columns] for row in drawn.values()]
    enlarged = [picture.resize((side, side), Image.Resampling.NEAREST) for row in shown for picture in row]
    return make_image_grid(enlarged, rows=len(shown), cols=len(shown[0]))


def table(report: dict[str, Any]) -> str:
    lines = [f"{'model':<12}{'win rate over base':>26}{'attributes':>12}{'style':>8}{'diversity':>11}"]
    won = {pair["a"]: pair for pair in report["pairs"] if pair["b"] == "base"}
    for name, entry in report["models"].items():
        rate = (
            f"{won[name]['win_rate']:.1%} [{won[name]['win_rate_low']:.1%}, {won[name]['win_rate_high']:.1%}]"
            if name in won
            else "-"
        )
        spread = "-" if entry["diversity"] is None else f"{entry['diversity']:.3f}"
        lines.append(f"{name:<12}{rate:>26}{entry['attributes']:>12.1%}{entry['style']:>8.3f}{spread:>11}")
    return "\n".join(lines)
