"""Build the scenes: `scenes-sd`, `scenes-flow`, their prompts and their pairs. Takes hours on two cores, once.

python scripts/build_assets.py scenes --output_dir assets --work_dir runs/scenes
"""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, concatenate_datasets
from diffusers import AutoencoderKL
from diffusers.utils import make_image_grid

from diffpo.core.refusal import Refusal
from diffpo.lab.scenes.bases import (
    FLOW,
    UNET,
    EncodedScenes,
    Kind,
    encode_scenes,
    load_scene_base,
    random_scenes,
    train_denoiser,
)
from diffpo.lab.scenes.build import build_tokenizer, tune_vae
from diffpo.lab.scenes.captions import TRAINING_FAMILIES
from diffpo.lab.scenes.preferences import ask_scenes, sample_pairs, write_prompts
from diffpo.lab.scenes.reading import draw_asked, read_facts
from diffpo.lab.scenes.users import ask_users, invite_users

Stage = Literal["vae", "latents", "unet", "flow", "prompts", "pairs", "flow_pairs", "users"]
NEEDS: dict[Stage, Stage] = {
    "latents": "vae",
    "unet": "latents",
    "flow": "latents",
    "pairs": "unet",
    "flow_pairs": "flow",
    "users": "pairs",
}
SHIPPED = {"unet": "scenes-sd", "flow": "scenes-flow"}
HALVED = ("vae", "unet", "transformer")
SHARD = 500
READ, COLUMNS = 100, 10  # development scenes that each checkpoint draws, and how many in a row


def main(
    output_dir: Path,
    work_dir: Path = Path("runs/scenes"),
    stages: tuple[Stage, ...] = ("vae", "latents", "unet", "flow", "prompts", "pairs", "flow_pairs"),
    start: str = "assets/tiny-sd",
    vae_steps: int = 400,
    scenes: int = 40_000,
    steps: int = 6000,
    continues: str | None = None,
    ships: int | None = None,
    every: int = 750,
    pairs: int = 4000,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Build the scenes, by stages: what a stage has left in the folders is not made again.

    Args:
        output_dir: gets the folders that are shipped.
        work_dir: gets the VAE, encoded scenes, and of each base the averaged checkpoints with a sheet of pictures and
            a line in `unet.jsonl` or `flow.jsonl` that says how they read their prompts.
        stages: which to run; `users` is run when asked: its pictures are those of the pairs.
        start: a pipeline whose VAE is tuned.
        vae_steps: optimizer steps of the VAE.
        scenes: that the bases are trained on.
        steps: optimizer steps of each base.
        continues: a checkpoint of a base in the working folder that its training goes on from, e.g. `unet-1500`; null
            begins anew.
        ships: the checkpoint that is shipped, in steps; null is the last.
        every: steps between checkpoints.
        pairs: of each base's samples.
        seed: of everything random.
        settings: the resolved config.

    Raises:
        Refusal: if a stage needs what another has not made.
    """
    torch.set_flush_denormal(True)
    todo: dict[Stage, tuple[Path, Callable[[Path], None]]] = {
        "vae": (work_dir / "vae", lambda to: tune_vae(start, vae_steps, seed=seed).save_pretrained(to)),
        "latents": (work_dir / "latents.pt", lambda to: keep_latents(work_dir / "vae", scenes, to)),
        "unet": (
            output_dir / SHIPPED["unet"],
            lambda to: build_base(UNET, work_dir, continues, steps, every, ships, seed, to),
        ),
        "flow": (
            output_dir / SHIPPED["flow"],
            lambda to: build_base(FLOW, work_dir, continues, steps, every, ships, seed, to),
        ),
        "prompts": (output_dir / "scenes-prompts", lambda to: write_prompts(to, seed=seed)),
        "pairs": (
            output_dir / "scenes-pairs",
            lambda to: draw_pairs(output_dir / SHIPPED["unet"], pairs, seed, work_dir / "pairs", to),
        ),
        "flow_pairs": (
            output_dir / "scenes-flow-pairs",
            lambda to: draw_pairs(output_dir / SHIPPED["flow"], pairs, seed + 1, work_dir / "flow-pairs", to),
        ),
        "users": (output_dir / "scenes-users", lambda to: keep_verdicts(output_dir / "scenes-pairs", seed, to)),
    }
    for stage in stages:
        made, make = todo[stage]
        if made.exists():
            print(f"{stage}: {made} is there", flush=True)
            continue
        unfinished = made.with_name(f"{made.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        if (before := NEEDS.get(stage)) and not (needed := todo[before][0]).exists():
            raise Refusal(f"The stage {stage} needs {needed}, which the stage {before} makes; run that first.")
        make(unfinished)
        unfinished.rename(made)
        print(f"{stage}: {made} is made", flush=True)


@torch.no_grad()
def keep_latents(vae: Path, scenes: int, file: Path) -> None:
    shown = encode_scenes(AutoencoderKL.from_pretrained(vae).eval(), scenes)
    torch.save({"means": shown.means, "deviations": shown.deviations}, file)


def build_base(
    kind: Kind, work: Path, continues: str | None, steps: int, every: int, ships: int | None, seed: int, to: Path
) -> None:
    """Train a base unless the checkpoint that is shipped is there."""
    chosen = work / f"{kind.name}-{ships or steps}"
    if not chosen.exists():
        if continues:
            pipe = load_scene_base(work / continues)
        else:
            pipe = kind.untrained(AutoencoderKL.from_pretrained(work / "vae").eval(), build_tokenizer(), seed)
        shown, watch = read_latents(work / "latents.pt"), keeper(kind, work)
        train_denoiser(pipe, kind, shown, steps, watch, every, seed=seed)
    shutil.copytree(chosen, to)


def read_latents(file: Path) -> EncodedScenes:
    """What `keep_latents` left; the scenes are drawn again, from the same seed."""
    kept = torch.load(file, weights_only=True)
    return EncodedScenes(random_scenes(len(kept["means"])), kept["means"], kept["deviations"])


def keeper(kind: Kind, work: Path) -> Callable[[int, Any], None]:
    """What a training of a base leaves at each checkpoint."""
    asked = ask_scenes("development", READ)

    def keep(step: int, pipe: Any) -> None:
        drawn = draw_asked(pipe, asked, TRAINING_FAMILIES)
        make_image_grid(drawn, rows=READ // COLUMNS, cols=COLUMNS).save(work / f"{kind.name}-{step}.png")
        line = json.dumps({"step": step} | asdict(read_facts(drawn, asked)))
        with (work / f"{kind.name}.jsonl").open("a") as readings:
            readings.write(f"{line}\n")
        print(line, flush=True)
        save_halved(pipe, work / f"{kind.name}-{step}")

    return keep


def save_halved(pipe: Any, folder: Path) -> None:
    """A pipeline whose VAE and network are saved in fp16, half the size; text encoders stay in fp32."""
    halved = {name: deepcopy(part).half() for name, part in pipe.components.items() if name in HALVED}
    type(pipe)(**pipe.components | halved).save_pretrained(folder)
    for file in folder.glob("*/config.json"):  # diffusers notes where a part was loaded from
        config = json.loads(file.read_text())
        file.write_text(
            json.dumps({name: x for name, x in config.items() if name != "_name_or_path"}, indent=2) + "\n"
        )


def draw_pairs(base: Path, pairs: int, seed: int, work: Path, to: Path) -> None:
    """Draw pairs in shards that are kept in the working folder, so that a stopped stage goes on."""
    work.mkdir(parents=True, exist_ok=True)
    shards = [work / f"{begin:05}.parquet" for begin in range(0, pairs, SHARD)]
    for begin, shard in zip(range(0, pairs, SHARD), shards, strict=True):
        if not shard.exists():
            made = sample_pairs(load_scene_base(base), range(begin, min(begin + SHARD, pairs)), seed=seed)
            made.to_parquet(unfinished := shard.with_suffix(".unfinished"))
            unfinished.rename(shard)
    to.mkdir()
    concatenate_datasets([Dataset.from_parquet(str(shard)) for shard in shards]).to_parquet(to / "train.parquet")


def keep_verdicts(pairs: Path, seed: int, to: Path, viewers: int = 3, support: int = 400) -> None:
    """`train.parquet` of the seen users, `held_out.parquet` of others on the last pairs, `users.json` of tastes."""
    judged, (seen, held_out) = Dataset.from_parquet(str(pairs / "train.parquet")), invite_users()
    to.mkdir()
    last = len(judged) - support
    ask_users(judged.select(range(last)), seen, viewers, seed).to_parquet(to / "train.parquet")
    ask_users(judged.select(range(last, len(judged))), held_out, len(held_out), seed).to_parquet(
        to / "held_out.parquet"
    )
    tastes = {name: asdict(user.taste) for name, user in (seen | held_out).items()}
    (to / "users.json").write_text(json.dumps(tastes, indent=2) + "\n")
