"""Small work for the real programs, on the tiny world of assets/: what is started, and what it leaves."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from datasets import load_dataset
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from diffpo.storage.digests import FILES, REPORT
from diffpo.train.align import RESUMED

ROOT = Path(__file__).parent.parent.parent
WORKERS = "LoRA training, data workers"
ALL = ("full training", "LoRA training", WORKERS, "text training", "encode_pairs", "score_pairs", "evaluate")
STEPS = 5
PROMPTS = ("a red circle on the left, white background", "a blue square on the right, black background")
SHORT = ["--fit.batch_size=4", "--fit.per_device_batch_size=2", "--fit.warmup=1", "--fit.save_every=2"]
SHORT += [f"--fit.steps={STEPS}", "--fit.log_every=1", "--fit.keep=2"]
VOLATILE = re.compile(r"pairs_per_second|accelerate launch|^ *resume:|^ *\"seconds\":|<dt>took</dt>|prompts read were")


@dataclass(frozen=True)
class Work:
    """A program with its arguments.

    Attributes:
        folder: its output_dir; always the same, so that what depends on its name does not differ.
        trains: whether it goes on with `--resume=latest`; others do when they are started again.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    folder: Path
    trains: bool = False

    def words(self, again: bool = False) -> list[str]:
        """The command line.

        Args:
            again: it goes on with what another one has begun.
        """
        resume = ["--resume=latest"] if self.trains and again else []
        return [str(ROOT / "scripts" / self.script), *self.arguments, f"--output_dir={self.folder}", *resume]


def works(root: Path) -> dict[str, Work]:
    """All work, by name, on files that are written to `root`."""
    pictures(root / "pairs")
    texts(root / "texts.parquet")
    (root / "prompts.jsonl").write_text("".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in PROMPTS))
    source = f"--data.source.path={root / 'pairs'}"
    diffusion = ["--config=configs/quickstart.yaml", source, *SHORT]
    judged = [f"--evaluation.prompts.path={root / 'prompts.jsonl'}", "--evaluation.sampling.steps=1"]
    judged += ["--evaluation.sampling.batch_size=1", f"--preview.prompts={json.dumps(PROMPTS[:1])}"]
    judged += ["--preview.steps=1", "--preview.every=3"]
    lora = [
        "--base.adapter=diffpo.diffusion.LoRA",
        "--base.adapter.rank=2",
        "--preview=null",
        "--evaluation=null",
    ]
    words = ["--config=configs/text/quickstart.yaml", f"--data.source.path={root / 'texts.parquet'}", *SHORT]
    scored = ["--config=configs/annotate/score.yaml", f"--source.path={root / 'pairs'}", "--batch_size=4"]
    encoded = ["--config=configs/encode/tiny.yaml", source, "--batch_size=4"]
    chosen = {
        "full training": ("train_diffusion_dpo.py", (*diffusion, *judged), True),
        "LoRA training": ("train_diffusion_dpo.py", (*diffusion, *lora), True),
        WORKERS: ("train_diffusion_dpo.py", (*diffusion, *lora, "--data.workers=2"), True),
        "text training": ("train_text_dpo.py", (*words, "--fit.ema=0.9", "--evaluation=null"), True),
        "encode_pairs": ("encode_pairs.py", tuple(encoded), False),
        "score_pairs": ("score_pairs.py", tuple(scored), False),
        "evaluate": ("evaluate.py", (f"--config={contestants(root)}",), False),
    }
    assert tuple(chosen) == ALL
    folders = {name: root / name.replace(", ", "-").replace(" ", "-") / "run" for name in ALL}
    return {name: Work(name, script, args, folders[name], t) for name, (script, args, t) in chosen.items()}


def pictures(folder: Path) -> None:
    """A dozen of the tiny world's pairs."""
    folder.mkdir()
    table = load_dataset("parquet", data_files=str(ROOT / "assets" / "tiny-pairs" / "train.parquet"), split="train")
    table.select(range(12)).to_parquet(str(folder / "train.parquet"))


def texts(file: Path) -> None:
    """Twenty of the tiny language world's pairs."""
    table = load_dataset("parquet", data_files=str(ROOT / "assets" / "tiny-rewrites" / "train.parquet"), split="train")
    table.select(range(20)).to_parquet(str(file))


def contestants(root: Path) -> Path:
    """A config that compares the base with one that is quieter."""
    unet: Any = UNet2DConditionModel.from_pretrained("assets/tiny-sd", subfolder="unet")
    unet.conv_out.weight.data *= 0.9
    unet.save_pretrained(root / "quieter" / "unet")
    models = [{"name": "base", "base": "assets/tiny-sd"}]
    models.append({"name": "quieter", "base": "assets/tiny-sd", "unet": str(root / "quieter" / "unet")})
    scorers: list[dict[str, Any]] = [{"class_path": "diffpo.lab.Oracle"}]
    scorers.append({"class_path": "diffpo.scorers.PickScore", "init_args": {"path": "assets/tiny-pickscore"}})
    sampling = {"pictures": 2, "steps": 1, "guidance": 2.5, "first_seed": 7, "batch_size": 1}
    config = {
        "models": models,
        "scorers": scorers,
        "sampling": sampling,
        "prompts": {"path": str(root / "prompts.jsonl")},
    }
    file = root / "evaluate.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def left_in(folder: Path) -> dict[str, Any]:
    """What finished work has left, by the names of the files, but for what tells of time and of the command line.

    Of checkpoints it is the last one, for which others stay depends on when a run was stopped, without the generators
    of the process, on which nothing here depends: nobody seeds those of Python and numpy.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = {str(file.relative_to(folder)): file for file in files}
    shown = {name: file for name, file in names.items() if not name.startswith(".")}
    last = max((name.split("/")[0] for name in shown if name.startswith("checkpoint-")), default="")
    return {
        name: content(file)
        for name, file in shown.items()
        if not name.startswith((f"{last}/files.json", f"{last}/random-"))
        and (name.startswith(f"{last}/") or not name.startswith("checkpoint-"))
    }


def differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of the files that one of the two lacks, or in which they differ."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return {name: digest(tensor.numpy().tobytes()) for name, tensor in load_file(file).items()}
    if file.name == "metrics.jsonl":
        return metrics(file)
    if file.name == FILES:
        named = json.loads(file.read_bytes())["files"]
        return named | {REPORT: "tells of time"} if REPORT in named else named
    if file.suffix in (".md", ".yaml", ".json", ".html"):
        text = file.read_text().replace(RESUMED, "")
        return [line for line in text.splitlines() if not VOLATILE.search(line)]
    return digest(file.read_bytes())


def metrics(file: Path) -> Mapping[int, dict[str, float]]:
    """What was measured at each step; of one that was repeated, the last."""
    found: dict[int, dict[str, float]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        line.pop("pairs_per_second", None)
        found.setdefault(line["step"], {}).update(line)
    return found


def digest(some: bytes) -> str:
    return sha256(some).hexdigest()[:16]
