"""What a step, a pass or a pair costs, beside what people run today.

python scripts/benchmark.py step --help
"""

from diffpo.cli.verbs import Verb, launch_verb

VERBS = {
    "step": Verb(
        "diffpo.lab.benchmark.measurements.step", "a training step against the published one and a bare loop"
    ),
    "count": Verb("diffpo.lab.benchmark.measurements.count", "memory of tuning a published base", True),
    "inversion": Verb("diffpo.lab.benchmark.measurements.inversion", "training at inverted latents"),
    "negative": Verb("diffpo.lab.benchmark.measurements.negative", "guidance with a negative network"),
    "scale": Verb("diffpo.lab.benchmark.measurements.scale", "pairs by the million: opening, resuming, reading"),
    "scoring": Verb("diffpo.lab.benchmark.measurements.scoring", "scorers over pairs"),
    "text": Verb("diffpo.lab.benchmark.measurements.text", "DPO on texts against TRL"),
    "vocabulary": Verb("diffpo.lab.benchmark.measurements.vocabulary", "log-likelihoods of large vocabularies"),
}

if __name__ == "__main__":
    launch_verb("scripts/benchmark.py", VERBS)
