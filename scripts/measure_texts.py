"""What a text run is measured by besides its loss.

python scripts/measure_texts.py ranking-accuracy --help
"""

from diffpo.cli.verbs import Verb, launch_verb

VERBS = {
    "ranking-accuracy": Verb(
        "diffpo.commands.ranking_accuracy", "how often a model ranks pairs right, and how often it could"
    ),
    "semantic-distance": Verb(
        "diffpo.commands.semantic_distance", "how far answers are from their prompts, as columns of the pairs"
    ),
}

if __name__ == "__main__":
    launch_verb("scripts/measure_texts.py", VERBS)
