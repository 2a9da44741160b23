"""Build a world of synthetic users: pairs that several users judged, each by a taste of their own, and prompts.

python scripts/build_assets.py users --output_dir users-world --pictures 1500
"""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from diffpo.lab.shapes.preferences import write_prompts
from diffpo.lab.users.tastes import judged_pairs, population, split_prompts
from diffpo.storage.ledger import require_same, write_json

BUILT = "built.json"


def main(
    output_dir: Path,
    base: Path = Path("assets/tiny-sd"),
    pictures: int = 1500,
    users: int = 24,
    viewers: int = 24,
    held_out: int = 8,
    support: int = 96,
    tie: float = 3.0,
    steps: int = 25,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Build a world of synthetic users: pairs that several users judged, each by a taste of their own, and prompts.

    The same command again does nothing.

    Args:
        output_dir: gets `train.parquet` (seen users), `held_out.parquet` (held-out users, other pictures),
            `prompts/development.jsonl` and `prompts/evaluation.jsonl` (of requests that no pair is of), and
            `users.json` (tastes).
        base: the pipeline that draws; two pictures for each prompt.
        pictures: that seen users compare, two by two.
        users: who are trained on, half of them of the opposite taste of the others.
        viewers: seen users who judge the same two pictures.
        held_out: users whose tastes no seen user has.
        support: pairs that every held-out user judges.
        tie: threshold below which a user notices no difference; see diffpo.lab.users.tastes.judged_pairs.
        steps: denoising steps.
        seed: of everything random.
        settings: the resolved config.

    Raises:
        Refusal: if the folder holds another world.
    """
    about = {"base": str(base), "pictures": pictures, "users": users, "viewers": viewers, "held_out": held_out}
    about |= {"support": support, "tie": tie, "steps": steps, "seed": seed}
    if (output_dir / BUILT).exists():
        require_same(json.loads((output_dir / BUILT).read_text()), about, output_dir)
        return
    torch.set_flush_denormal(True)
    everybody, split = population(users, held_out, seed), split_prompts(seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    everybody.write(output_dir / "users.json")
    write_prompts(split, output_dir / "prompts", seed)
    drawing = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    kept, shown = everybody.held_out, everybody.seen
    held = {"seed": seed + 1, "first_seed": pictures, "tie": tie}
    later = judged_pairs(drawing, split.training, kept, support, len(kept), steps, **held)
    later.to_parquet(output_dir / "held_out.parquet")
    judged = judged_pairs(drawing, split.training, shown, pictures // 2, viewers, steps, seed=seed, tie=tie)
    judged.to_parquet(output_dir / "train.parquet")
    write_json(output_dir / BUILT, about)
    print(f"{len(judged)} verdicts of {users} users and {len(later)} of {held_out} held-out ones are in {output_dir}.")
