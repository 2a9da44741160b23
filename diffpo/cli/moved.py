"""Where what configs name has gone: class paths of 0.1.0.dev named files. To be deleted with the next version."""

import re
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
ROOMS = {
    "diffpo.captioners.blip": "diffpo.annotators",
    "diffpo.captioners.chat": "diffpo.annotators",
    "diffpo.captioners.dipper": "diffpo.annotators",
    "diffpo.captioners.endpoint": "diffpo.annotators",
    "diffpo.captioners.words": "diffpo.annotators",
    "diffpo.captioning": "diffpo.annotators",
    "diffpo.captions": "diffpo.data",
    "diffpo.diffusion.contestants": "diffpo.diffusion",
    "diffpo.diffusion.data": "diffpo.diffusion",
    "diffpo.diffusion.drawing": "diffpo.diffusion",
    "diffpo.diffusion.encoded": "diffpo.diffusion",
    "diffpo.diffusion.encoding": "diffpo.diffusion",
    "diffpo.diffusion.evaluation": "diffpo.diffusion",
    "diffpo.diffusion.guard": "diffpo.diffusion",
    "diffpo.diffusion.guidance": "diffpo.diffusion",
    "diffpo.diffusion.images": "diffpo.diffusion",
    "diffpo.diffusion.inversion": "diffpo.diffusion",
    "diffpo.diffusion.ip_adapters": "diffpo.diffusion.pipelines",
    "diffpo.diffusion.loading": "diffpo.diffusion",
    "diffpo.diffusion.methods.capo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.dcpo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.dmpo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.dspo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.inpo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.kto": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.mapo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.npo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.rethinking": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.self_npo": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.sft": "diffpo.diffusion.methods",
    "diffpo.diffusion.methods.smpo": "diffpo.diffusion.methods",
    "diffpo.diffusion.noising": "diffpo.diffusion",
    "diffpo.diffusion.objective": "diffpo.diffusion",
    "diffpo.diffusion.personal": "diffpo.diffusion",
    "diffpo.diffusion.pipelines": "diffpo.diffusion.pipelines",
    "diffpo.diffusion.preview": "diffpo.diffusion",
    "diffpo.diffusion.routing": "diffpo.diffusion",
    "diffpo.diffusion.rows": "diffpo.diffusion",
    "diffpo.diffusion.trajectories": "diffpo.diffusion",
    "diffpo.diffusion.user_attention": "diffpo.diffusion",
    "diffpo.diffusion.user_branch": "diffpo.diffusion",
    "diffpo.diffusion.user_panel": "diffpo.diffusion",
    "diffpo.diffusion.user_pipelines": "diffpo.diffusion",
    "diffpo.diffusion.validation": "diffpo.diffusion",
    "diffpo.diffusion.weighting": "diffpo.diffusion",
    "diffpo.double_captions": "diffpo.data",
    "diffpo.draws": "diffpo",
    "diffpo.embedders.chat": "diffpo.annotators",
    "diffpo.embedders.embedder": "diffpo.annotators",
    "diffpo.embedders.pooled": "diffpo.annotators",
    "diffpo.evaluation": "diffpo.evaluation",
    "diffpo.fit": "diffpo",
    "diffpo.labels": "diffpo.data",
    "diffpo.losses.combined": "diffpo.losses",
    "diffpo.losses.divergence": "diffpo.losses",
    "diffpo.losses.likelihood": "diffpo.losses",
    "diffpo.losses.logistic": "diffpo.losses",
    "diffpo.losses.margin": "diffpo.losses",
    "diffpo.losses.reference_free": "diffpo.losses",
    "diffpo.losses.two_sided": "diffpo.losses",
    "diffpo.mixing": "diffpo.data",
    "diffpo.needs": "diffpo.core",
    "diffpo.prompts": "diffpo.evaluation",
    "diffpo.publish": "diffpo.train",
    "diffpo.rankings": "diffpo.data",
    "diffpo.refusal": "diffpo.core",
    "diffpo.reward_users": "diffpo.diffusion",
    "diffpo.rows": "diffpo.data",
    "diffpo.run": "diffpo",
    "diffpo.scorers.aesthetic": "diffpo.scorers",
    "diffpo.scorers.clip_score": "diffpo.scorers",
    "diffpo.scorers.hps": "diffpo.scorers",
    "diffpo.scorers.hpsv3": "diffpo.scorers",
    "diffpo.scorers.image_reward": "diffpo.scorers",
    "diffpo.scorers.oracle": "diffpo.lab",
    "diffpo.scorers.pickscore": "diffpo.scorers",
    "diffpo.scoring": "diffpo.evaluation",
    "diffpo.sources": "diffpo.data",
    "diffpo.streams": "diffpo.data",
    "diffpo.text.adapters": "diffpo.text",
    "diffpo.text.data": "diffpo.text",
    "diffpo.text.lists": "diffpo.text",
    "diffpo.text.loading": "diffpo.text",
    "diffpo.text.masks": "diffpo.text",
    "diffpo.text.methods.dmpo": "diffpo.text.methods",
    "diffpo.text.methods.hpo": "diffpo.text.methods",
    "diffpo.text.methods.mdpo": "diffpo.text.methods",
    "diffpo.text.methods.rationales": "diffpo.text.methods",
    "diffpo.text.methods.rrpo": "diffpo.text.methods",
    "diffpo.text.methods.sem_dpo": "diffpo.text.methods",
    "diffpo.text.methods.sft": "diffpo.text.methods",
    "diffpo.text.methods.sparsepo": "diffpo.text.methods",
    "diffpo.text.methods.spo_self_supervised": "diffpo.text.methods",
    "diffpo.text.methods.tpo_tree": "diffpo.text.methods",
    "diffpo.text.objective": "diffpo.text",
    "diffpo.text.pictures": "diffpo.text",
    "diffpo.text.reasons": "diffpo.text",
    "diffpo.text.semantic": "diffpo.text",
    "diffpo.text.sequences": "diffpo.text",
    "diffpo.text.sources": "diffpo.text",
    "diffpo.text.spans": "diffpo.text",
    "diffpo.text.steps": "diffpo.text",
    "diffpo.text.validation": "diffpo.text",
    "diffpo.text.vision": "diffpo.text",
    "diffpo.tinyworld.language.evaluation": "diffpo.lab",
    "diffpo.tinyworld.language.oracle": "diffpo.lab",
    "diffpo.tinyworld.speakers": "diffpo.lab",
    "diffpo.tracking": "diffpo.train",
    "diffpo.unpaired": "diffpo.data",
    "diffpo.user_judges.chat": "diffpo.annotators",
    "diffpo.user_judges.endpoint": "diffpo.annotators",
    "diffpo.user_judges.oracle": "diffpo.lab",
    "diffpo.user_judging": "diffpo.annotators",
    "diffpo.user_rows": "diffpo.diffusion",
    "diffpo.users": "diffpo.diffusion",
    "diffpo.validation": "diffpo.train",
}
NAMES = {
    "diffpo.adapters.Adapter": "diffpo.train.Adapter",
    "diffpo.adapters.LoRA": "diffpo.diffusion.LoRA",
    "diffpo.adapters.WarmLoRA": "diffpo.diffusion.WarmLoRA",
    "diffpo.core.Objective": "diffpo.Objective",
    "diffpo.core.PairLabels": "diffpo.PairLabels",
    "diffpo.core.PairLogps": "diffpo.PairLogps",
    "diffpo.core.PairLoss": "diffpo.PairLoss",
    "diffpo.core.Step": "diffpo.Step",
    "diffpo.core.pair_step": "diffpo.core.pair_step",
    "diffpo.core.rewards": "diffpo.core.rewards",
    "diffpo.references.Ema": "diffpo.core.Ema",
    "diffpo.references.FrozenCopy": "diffpo.core.FrozenCopy",
    "diffpo.references.Reference": "diffpo.Reference",
    "diffpo.references.SwitchedOff": "diffpo.core.SwitchedOff",
}
OPTIONS = {"remember": "reference_cache"}  # of commands, and keys of their files
PATH = re.compile(r"\bdiffpo(?:\.\w+)+\.[A-Z]\w*")


def find_new_path(path: str) -> str:
    """What an old class path is now; any other one stays."""
    room, _, name = path.rpartition(".")
    return NAMES.get(path) or (f"{ROOMS[room]}.{name}" if room in ROOMS else path)


def find_moved(text: str) -> list[tuple[str, str]]:
    """Old class paths in a text that lead nowhere now, with their new ones."""
    old = [path for path in dict.fromkeys(PATH.findall(text)) if not is_there(path)]
    return [(path, new) for path in old if (new := find_new_path(path)) != path]


def is_there(path: str) -> bool:
    """Whether the module that a class path names still exists; the name in it is the parser's matter."""
    _, *parts = path.split(".")[:-1]
    return (PACKAGE.joinpath(*parts)).with_suffix(".py").is_file()


def rename_moved(tree: Any) -> Any:
    """A config with new class paths and options for old ones."""
    if isinstance(tree, dict):
        return {OPTIONS.get(key, key): rename_moved(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rename_moved(value) for value in tree]
    return PATH.sub(lambda found: find_new_path(found[0]), tree) if isinstance(tree, str) else tree


def find_old_options(args: list[str], text: str) -> list[tuple[str, str]]:
    """Options of a command line, and keys of its files, that have another name now, with that.

    Args:
        text: of the files.
    """
    said = {arg.removeprefix("--").partition("=")[0].partition(".")[0] for arg in args if arg.startswith("--")}
    said |= set(re.findall(r"^(\w+):", text, flags=re.MULTILINE))
    return [(old, new) for old, new in OPTIONS.items() if old in said]
