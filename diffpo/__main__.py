"""The command `diffpo`; `accelerate launch -m diffpo train ...` for several processes."""

import sys

from diffpo.cli.verbs import Verb, VerbGroup, launch_verb
from diffpo.processes.pipes import leave_with_reader

VERBS = {
    "quickstart": Verb("diffpo.commands.quickstart", "train and compare in the tiny world, here, in minutes", True),
    "recipes": Verb("diffpo.commands.recipes", "the configs that come along: base, method, GPUs, batch, source", True),
    "inspect": Verb("diffpo.commands.inspect", "before a training on pictures: what it will do, and its first pairs"),
    "inspect-text": Verb("diffpo.commands.inspect_text", "the same before a training on texts"),
    "train": Verb("diffpo.commands.train", "align a text-to-image model with preferences over pictures"),
    "train-text": Verb("diffpo.commands.train_text", "align a language model with preferences over texts"),
    "rounds": Verb("diffpo.commands.train_rounds", "the same on its own answers, round after round"),
    "rounds-pictures": Verb("diffpo.commands.train_picture_rounds", "a text-to-image model on its own pictures"),
    "sample": Verb("diffpo.commands.sample", "a model's answers or pictures of prompts: a round's first stage, alone"),
    "judge": Verb("diffpo.commands.judge", "a judge's verdicts on them: its second stage"),
    "pair": Verb("diffpo.commands.pair", "pairs of answers that were judged: its third stage"),
    "encode": Verb("diffpo.commands.encode", "encode pictures and prompts of pairs once, before training"),
    "score": Verb("diffpo.commands.score", "a scorer's numbers for both pictures of every pair, or for texts"),
    "caption": Verb("diffpo.commands.caption", "two captions for every pair"),
    "embed-users": Verb("diffpo.commands.embed_users", "embeddings of users, from pairs that they judged"),
    "judge-users": Verb("diffpo.commands.judge_users", "ask a judge which picture a user would prefer"),
    "evaluate": Verb("diffpo.commands.evaluate", "models side by side: same prompts and seeds, every scorer"),
    "evaluate-text": Verb("diffpo.commands.evaluate_text", "the same of models that write, by scorers and judges"),
    "evaluate-users": Verb("diffpo.commands.evaluate_users", "models that draw for users, judged by users"),
    "convert": VerbGroup(
        {
            "mix-negative": Verb("diffpo.commands.mix_negative", "a negative for guidance, of base and tuned weights"),
            "extrapolate": Verb("diffpo.commands.extrapolate", "momentum between rounds, as a step of weights"),
            "export-lora": Verb("diffpo.commands.export_lora", "a LoRA for A1111, Forge and ComfyUI"),
        },
        "weights of finished runs, made into others",
    ),
    "measure": VerbGroup(
        {
            "ranking-accuracy": Verb("diffpo.commands.ranking_accuracy", "how often a model ranks pairs right"),
            "semantic-distance": Verb("diffpo.commands.semantic_distance", "how far answers are from their prompts"),
        },
        "what a text run is measured by besides its loss",
    ),
    "evidence": Verb("diffpo.commands.evidence", "a grid of methods and seeds, as a table with intervals"),
    "benchmark": VerbGroup(
        {
            "step": Verb("diffpo.lab.benchmark.measurements.step", "a training step beside the published one"),
            "count": Verb("diffpo.lab.benchmark.measurements.count", "memory of tuning a published base", True),
            "inversion": Verb("diffpo.lab.benchmark.measurements.inversion", "training at inverted latents"),
            "negative": Verb("diffpo.lab.benchmark.measurements.negative", "guidance with a negative network"),
            "scale": Verb("diffpo.lab.benchmark.measurements.scale", "pairs by the million"),
            "scoring": Verb("diffpo.lab.benchmark.measurements.scoring", "scorers over pairs"),
            "text": Verb("diffpo.lab.benchmark.measurements.text", "DPO on texts beside TRL"),
            "vocabulary": Verb("diffpo.lab.benchmark.measurements.vocabulary", "large vocabularies"),
        },
        "what a step, a pass or a pair costs on this machine",
    ),
}


def main() -> None:
    words = sys.argv[1:]
    if words[:1] in (["--version"], ["version"]):
        from diffpo import __version__

        print(__version__)
        return
    sys.argv[:1] = ["-m", "diffpo"]  # as model cards and the line that resumes a run write it: accelerate launch ...
    with leave_with_reader():
        launch_verb("diffpo", VERBS, words)


if __name__ == "__main__":
    main()
