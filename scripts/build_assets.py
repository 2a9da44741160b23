"""Build the tiny worlds that tests, quick starts and evidence stand on.

python scripts/build_assets.py shapes --help
"""

from diffpo.cli.verbs import Verb, launch_verb

VERBS = {
    "shapes": Verb("diffpo.lab.worlds.shapes", "pictures: pipeline, pairs and prompts"),
    "scenes": Verb("diffpo.lab.worlds.scenes", "pictures with headroom: two bases, pairs with votes and prompts"),
    "scorers": Verb("diffpo.lab.worlds.scorers", "learned judges of the pictures"),
    "scene_scorers": Verb("diffpo.lab.worlds.scene_scorers", "learned judges of the scenes"),
    "rewrites": Verb("diffpo.lab.worlds.rewrites", "texts: a language model, pairs, lists and conversations"),
    "users": Verb("diffpo.lab.worlds.users", "users with tastes of their own"),
}

if __name__ == "__main__":
    launch_verb("scripts/build_assets.py", VERBS)
