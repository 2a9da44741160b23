"""Folders of work on a tiny base: what our programs leave, half done or finished, and the programs that read it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import tiny
import yaml
from brightness import SHARD
from campaigns.outcomes import Heard, hear, stop_here
from captioning_until import TOKENIZER
from tiny_embedders import compared
from tiny_text_runs import text_files

from diffpo.diffusion.annotate import shards as pair_shards
from diffpo.lab.evidence import runner
from diffpo.lab.users.tastes import Population, Taste
from diffpo.storage import arrow
from diffpo.storage.ledger import Ledger

PROMPTS = ("a red circle on the left", "a blue cross")
FAR = 10**9


@dataclass(frozen=True)
class Program:
    """One of scripts/ and its arguments, in which `{root}` is where all lies, `{work}` the folder of work, and `{out}`
    a new folder."""

    name: str
    arguments: tuple[str, ...]

    def __call__(self, root: Path, work: Path, out: Path, *more: str) -> Heard:
        places = {"{root}": str(root), "{work}": str(work), "{out}": str(out)}
        words = [*self.arguments, *more]
        for place, path in places.items():
            words = [word.replace(place, path) for word in words]
        return hear(import_module(self.name).main, *words)

    def but(self, *more: str) -> "Program":
        return replace(self, arguments=(*self.arguments, *more))


class Grid(Program):
    """scripts/evidence.py, whose runs are started in this process: each would import the libraries anew."""

    def __call__(self, root: Path, work: Path, out: Path, *more: str) -> Heard:
        with patch.object(runner.programs, "run", run_here):
            return super().__call__(root, work, out, *more)


def run_here(command: list[str], log: Path | None = None, **_: Any) -> None:
    """One of the verbs of `diffpo`, which are all that these grids start."""
    _, module, diffpo, verb, *words = command
    assert (module, diffpo) == ("-m", "diffpo")
    heard = hear(import_module(f"diffpo.commands.{verb.replace('-', '_')}").main, *words)
    if log is not None:
        with log.open("a") as said:
            said.write("\n".join([*heard.lines, heard.fault]))
    assert not heard.fault, heard.fault
    if heard.code:
        raise subprocess.CalledProcessError(heard.code, command)


@dataclass(frozen=True)
class Reading:
    """A program that reads a folder of work.

    Attributes:
        results: globs below the root of what it makes of it.
    """

    program: Program
    results: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """A folder of work.

    Attributes:
        make: fills it.
        other: what another run of the same kind has else.
        half: after how many additions to ledgers the work is stopped; 0 lets it end.
    """

    name: str
    make: Program
    other: tuple[str, ...]
    readings: dict[str, Reading] = field(default_factory=dict)
    half: int = 0

    def build(self, root: Path, kept: Path) -> None:
        """Make it at its place in the root, and keep that; and keep another run as `name-other`."""
        place = root / self.name
        for name, more in ((f"{self.name}-other", self.other), (self.name, ())):
            shutil.rmtree(root / "out", ignore_errors=True)
            with stopped_after(self.half or FAR):
                heard = self.make(root, place, root / "out", *more)
            assert not heard.fault, heard.fault
            assert bool(heard.code) == bool(self.half), heard
            shutil.move(place, kept / name)
        shutil.copytree(kept / self.name, place)  # others may read it


@contextmanager
def stopped_after(additions: int) -> Iterator[None]:
    """Inside, a signal comes when ledgers have kept so many results; files hold few rows, so that there are some."""
    count, add = [0], Ledger.add

    def adding(self: Ledger, entries) -> None:
        add(self, entries)
        count[0] += 1
        if count[0] == additions:
            stop_here()

    with (
        patch.object(Ledger, "add", adding),
        patch.object(arrow, "PER_FILE", 2),
        patch.object(pair_shards, "SHARD", SHARD),
    ):
        yield


def grid(root: Path) -> dict[str, Any]:
    """Of scripts/evidence.py: two methods, one seed."""
    return {
        "config": "configs/quickstart.yaml",
        "methods": {"sft": ["--objective=diffpo.diffusion.methods.SFT"], "guarded": []},
        "seeds": [0],
        "baseline": "sft",
        "also": [
            *[word.replace("{root}", str(root)) for word in TRAIN.arguments[1:]],
            *("--preview=null", "--evaluation.base_pictures={output}/base", "--evaluation.sampling.pictures=2"),
        ],
    }


def world(root: Path) -> None:
    """What all programs start from: bases, pairs of pictures, of users and of texts, prompts, tastes."""
    tiny.saved(root / "base")
    tiny.pair_folder(root / "pairs")
    users = datasets.Dataset.from_parquet(compared(root / "users.parquet", {"ann": 4, "bob": 4}))
    users.map(lambda row: {"prompt": PROMPTS[int(row["prompt"]) % len(PROMPTS)]}).to_parquet(root / "users.parquet")
    Population({"ann": Taste(vividness=1.0)}, {"bob": Taste(vividness=1.0)}).write(root / "tastes.json")
    (root / "prompts.jsonl").write_text("".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in PROMPTS))
    (root / "development.txt").write_text("a pink circle at the top\n")
    (root / "grid.yaml").write_text(yaml.safe_dump(plan := grid(root)))
    also = [*plan["also"], "--fit.warmup=1", "--evaluation.sampling.first_seed=1"]
    (root / "other.yaml").write_text(yaml.safe_dump(plan | {"also": also}))
    (root / "texts").mkdir()
    text_files(root / "texts")


SMALL = ("--fit.steps=2", "--fit.batch_size=2", "--fit.per_device_batch_size=2", "--fit.save_every=1")
PAIRS = ("--data.source=diffpo.data.PairFolder", "--data.source.path={root}/pairs")
LORA = ("--base.adapter=diffpo.diffusion.LoRA", "--base.adapter.rank=2")
BARE = ("--preview=null", "--evaluation=null")
TRAIN = Program(
    "train_diffusion_dpo",
    (
        *("--config=configs/quickstart.yaml", "--base.path={root}/base", *PAIRS, *SMALL),
        *("--preview.steps=1", "--preview.prompts=[a red circle]", "--preview.every=1"),
        *("--evaluation.prompts.path={root}/prompts.jsonl", "--evaluation.sampling.steps=1"),
        "--evaluation.sampling.pictures=1",
    ),
)
TO_OUT = ("--output_dir={out}", *BARE, *LORA, "--fit.save_every=null")
LORA_FILE, TEXT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"


def rows(*maps: str | tuple[str, str, str]) -> str:
    """Row maps, each by its class, or by class, argument and value."""
    said = [(one, "", "") if isinstance(one, str) else one for one in maps]
    return "--data.rows=" + json.dumps(
        [{"class_path": kind, "init_args": {name: value} if name else {}} for kind, name, value in said]
    )


def again(program: Program, *results: str) -> Reading:
    return Reading(program, results)


def compare(base: dict[str, str], tuned: dict[str, str]) -> Reading:
    """Two models, by scripts/evaluate.py."""
    models = json.dumps([{"name": "base", **base}, {"name": "tuned", **tuned}])
    return Reading(EVALUATE.but(f"--models={models}"), ("out/report.json",))


def beside_base(**tuned: str) -> Reading:
    return compare({"base": "{root}/base"}, {"base": "{root}/base", **tuned})


EVALUATE = Program(
    "evaluate",
    (
        *("--prompts.path={root}/prompts.jsonl", "--output_dir={out}", "--scorers=[diffpo.lab.Oracle]"),
        *("--sampling.steps=1", "--sampling.pictures=1", "--sampling.batch_size=1"),
    ),
)
SWEEP = ("--sweep.prompts.path={root}/development.txt", "--sweep.scales=[1.0, 3.0]", "--sweep.by=oracle")
RUN = TRAIN.but("--output_dir={work}", *LORA)
WHOLE = TRAIN.but("--output_dir={work}", "--evaluation=null", "--fit.ema=0.5")
HEARING = TRAIN.but(
    *(
        "--output_dir={work}",
        *BARE,
        "--data.source=diffpo.data.Columns",
        "--data.source.path={root}/users.parquet",
    ),
    rows("diffpo.data.DropTies", ("diffpo.diffusion.ForUser", "embeddings", "{root}/embedded")),
    *("--base.adapter=diffpo.diffusion.UserBranch", "--base.adapter.tokens=2", "--base.adapter.width=3"),
)
TEXT = Program(
    "train_text_dpo",
    (
        *("--config=configs/text/quickstart.yaml", "--base.path={root}/texts/base", "--evaluation=null", *SMALL),
        *("--data.source.path={root}/texts/pairs.parquet", "--base.adapter=diffpo.text.TextLoRA"),
        *("--base.adapter.rank=2", "--output_dir={work}"),
    ),
)
ACCURACIES = Program(
    "diffpo.commands.ranking_accuracy",
    (
        *("--base.path={root}/texts/base", "--tuned={work}", "--data.source=diffpo.data.Columns"),
        *("--data.source.path={root}/texts/pairs.parquet", "--data.max_length=64", "--data.workers=0"),
        *("--base.adapter=diffpo.text.TextLoRA", "--output={out}.json"),
    ),
)
ENCODE = Program(
    "encode_pairs",
    (
        *("--base.path={root}/base", *PAIRS, "--data.framing.resolution=32", "--data.workers=0"),
        *("--output_dir={work}", "--batch_size=2"),
    ),
)
SCORE = Program(
    "score_pairs",
    (
        *("--scorer=brightness.Brightness", "--source=diffpo.data.PairFolder", "--source.path={root}/pairs"),
        *("--output_dir={work}", "--batch_size=2"),
    ),
)
CAPTION = Program(
    "caption_pairs",
    (
        *("--source=diffpo.data.PairFolder", "--source.path={root}/pairs", "--strategy=caption"),
        *("--captioner=captioning_until.Logged", "--captioner.log={root}/captions.log", f"--tokenizer={TOKENIZER}"),
        *("--output_dir={work}", "--batch_size=2"),
    ),
)
EMBED = Program(
    "embed_users",
    (
        *(
            "--embedder=tiny_embedders.Means",
            "--source=diffpo.data.Columns",
            "--source.path={root}/users.parquet",
        ),
        *("--output_dir={work}", "--shots=1"),
    ),
)
MODELS = beside_base(lora="{root}/lora").program.but(*SWEEP, "--output_dir={work}")
JUDGE = Program(
    "judge_users",
    (
        *("--judge=diffpo.lab.UserOracle", "--judge.tastes={root}/tastes.json", "--shots=2"),
        *("--source=diffpo.data.Columns", "--source.path={root}/users.parquet", "--output_dir={work}"),
        "--batch_size=1",
    ),
)
ALONE = Program(
    "evaluate_users",
    (
        "--models=[{name: base, base: '{root}/base'}, "
        "{name: ppd, base: '{root}/base', user_attention: '{root}/hearing', shots: [1]}]",
        *(
            "--tastes={root}/tastes.json",
            "--support=diffpo.data.Columns",
            "--support.path={root}/users.parquet",
        ),
        *("--embedder=tiny_embedders.Means", "--prompts.path={root}/prompts.jsonl", "--output_dir={work}"),
        *("--sampling.steps=1", "--sampling.pictures=1", "--sampling.batch_size=1"),
    ),
)
REMEMBERING = TRAIN.but(*TO_OUT, "--data.cycle=2", "--reference_cache={work}")
EVIDENCE = Grid("evidence", ("--grid={root}/grid.yaml", "--output_dir={work}", "--record={out}", "--jobs=1"))

TRAINED = f"out/{LORA_FILE}"
DATA = ("diffpo.data.Columns", "diffpo.diffusion.EncodedPairs")


def training_on(source: str, *more: str) -> Reading:
    return Reading(TRAIN.but(*TO_OUT, f"--data.source={source}", "--data.source.path={work}", *more), (TRAINED,))


OTHER, LATER = ("--seed=1",), ("--fit.steps=3", "--resume=latest")
READING_ENCODED = {"train": training_on(DATA[1]), "encode": again(ENCODE, "work/*.arrow", "work/encoding.json")}
READING_SCORED = {
    "train": training_on(DATA[0], rows("diffpo.data.ScoreLabel")),
    "score": again(SCORE, "work/*.parquet", "work/scores.json"),
}
READING_CAPTIONS = {
    "train": training_on(DATA[0], "--objective=diffpo.diffusion.methods.DCPO", rows("diffpo.data.DualCaptions")),
    "caption": again(CAPTION, "work/*.parquet", "work/captions.json"),
}
READING_USERS = {
    "train": Reading(HEARING.but("--output_dir={out}"), ("out/user_attention.safetensors",)),
    "embed": again(EMBED, "work/*.safetensors", "work/users.json", "work/*.parquet"),
}
EMBEDDED, EVALUATED = "embedded", ("work/report.json",)
WORKS = (
    Work(
        "lora",
        RUN,
        OTHER,
        {
            "resume": again(RUN.but(*LATER), f"work/{LORA_FILE}", "work/report.json", "work/README.md"),
            "evaluate": beside_base(lora="{work}"),
            "go on": Reading(
                TRAIN.but(*TO_OUT, "--base.adapter=diffpo.diffusion.WarmLoRA", "--base.adapter.path={work}"),
                (TRAINED,),
            ),
            "export": Reading(
                Program("diffpo.commands.export_lora", ("--lora={work}", "--output={out}.safetensors")),
                ("out.safetensors",),
            ),
        },
    ),
    Work(
        "unet",
        WHOLE,
        OTHER,
        {
            "resume": again(WHOLE.but(*LATER), "work/unet/*", "work/README.md"),
            "evaluate": beside_base(unet="{work}"),
        },
    ),
    Work(
        "text",
        TEXT,
        OTHER,
        {
            "resume": again(TEXT.but(*LATER), f"work/{TEXT_FILE}", "work/README.md"),
            "accuracies": Reading(ACCURACIES, ("out.json",)),
            "go on": Reading(
                TEXT.but(
                    *("--output_dir={out}", "--base.adapter=diffpo.text.TextWarmLoRA"),
                    "--base.adapter.path={work}",
                ),
                (f"out/{TEXT_FILE}",),
            ),
        },
    ),
    Work("remembered", REMEMBERING, OTHER, {"train": again(REMEMBERING, TRAINED)}),
    Work("encoded", ENCODE, OTHER, READING_ENCODED),
    Work("encoded, half", ENCODE, OTHER, {"encode": READING_ENCODED["encode"]}, half=2),
    Work("scored", SCORE, OTHER, READING_SCORED),
    Work("scored, half", SCORE, OTHER, {"score": READING_SCORED["score"]}, half=2),
    Work("captions", CAPTION, OTHER, READING_CAPTIONS),
    Work("captions, half", CAPTION, OTHER, {"caption": READING_CAPTIONS["caption"]}, half=3),
    Work(EMBEDDED, EMBED, OTHER, READING_USERS),
    Work(f"{EMBEDDED}, half", EMBED, OTHER, {"embed": READING_USERS["embed"]}, half=2),
    Work("hearing", HEARING, OTHER, {"evaluate users": again(ALONE.but("--output_dir={out}"), "out/report.json")}),
    Work(
        "evaluation",
        MODELS,
        ("--sampling.first_seed=1",),
        {
            "evaluate": again(MODELS, *EVALUATED),
            "evaluate pictures": compare({"pictures": "{work}/base"}, {"pictures": "{work}/tuned"}),
        },
    ),
    Work("evaluation, half", MODELS, ("--sampling.first_seed=1",), {"evaluate": again(MODELS, *EVALUATED)}, half=7),
    Work("judged", JUDGE, OTHER, {"judge": again(JUDGE, "work/report.json", "work/verdicts.jsonl")}),
    Work("judged, half", JUDGE, OTHER, {"judge": again(JUDGE, "work/report.json", "work/verdicts.jsonl")}, half=2),
    Work(
        "grid",
        EVIDENCE,
        ("--grid={root}/other.yaml",),
        {"tabulate": again(EVIDENCE, "work/table.md", "out/grid.json")},
    ),
    Work("for users", ALONE, ("--sampling.first_seed=1",), {"evaluate users": again(ALONE, *EVALUATED)}),
)
