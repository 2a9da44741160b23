"""Figures of the documentation, from what was measured.

python scripts/figures.py guidance --help
"""

from diffpo.cli.verbs import Verb, launch_verb

VERBS = {
    "comparison": Verb("diffpo.lab.figures.comparison", "pictures of several models, a row for each"),
    "guidance": Verb("diffpo.lab.figures.guidance", "quality against guidance scale"),
    "reconstruction": Verb("diffpo.lab.figures.reconstruction", "how well inversion leads back to a picture"),
}

if __name__ == "__main__":
    launch_verb("scripts/figures.py", VERBS)
