"""Lay pictures of several models side by side: a row for each model, a column for each prompt, enlarged.

python scripts/figures.py comparison --models '{"base": "runs/base", "tuned": "runs/tuned/evaluation/tuned"}' \
    --picks '[0, 2, 4]' --output assets/before_after.png
"""

import textwrap
from pathlib import Path

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.diffusion.evaluation.listing import LISTING, read_listing
from diffpo.train.report.figure import SMALL, open_figure, save_figure

CELL, HEAD = 1.25, 0.55  # inches
LETTERS = 21  # in a line of a prompt


def main(models: dict[str, Path], picks: tuple[int, ...], output: Path, settings: str = "") -> None:
    """Lay pictures of several models side by side: a row for each model, a column for each prompt, enlarged.

    Args:
        models: name of a row: folder of a model's pictures with their `prompts.jsonl`, as an evaluation leaves it;
            all of the same prompts and seeds.
        picks: which pictures, as lines of the listings from 0.
        output: a .png.
        settings: the resolved config.
    """
    drawn = {name: read_listing(folder / LISTING, outside=True) for name, folder in models.items()}
    require_same_prompts(drawn, picks)
    lay_out(drawn, picks, output)
    print(f"{output}: {len(drawn)} models, {len(picks)} prompts")


def require_same_prompts(drawn: dict[str, list[tuple[str, Path]]], picks: tuple[int, ...]) -> None:
    """Raise a Refusal if models do not show the same prompts, or a line is picked that a listing lacks."""
    (first, shown), *others = drawn.items()
    for name, listed in others:
        if [prompt for prompt, _ in listed] != [prompt for prompt, _ in shown]:
            raise Refusal(f"{name} was not drawn from the prompts of {first}; take folders of one evaluation.")
    wrong = [pick for pick in picks if not 0 <= pick < len(shown)]
    if wrong or not picks:
        raise Refusal(f"The listings have lines 0 to {len(shown) - 1}, picked are {list(picks)}; pick some of them.")


def lay_out(drawn: dict[str, list[tuple[str, Path]]], picks: tuple[int, ...], output: Path) -> None:
    import matplotlib

    size = (CELL * len(picks) + 0.8, CELL * len(drawn) + HEAD)
    with matplotlib.rc_context(SMALL):
        figure, axes = open_figure(len(picks) * len(drawn), columns=len(picks))
        figure.set_size_inches(size)
        for place, one in enumerate(axes):
            row, column = divmod(place, len(picks))
            name = list(drawn)[row]
            prompt, file = drawn[name][picks[column]]
            one.imshow(read_image(str(file)), interpolation="nearest")
            one.grid(False)
            one.set_xticks([])
            one.set_yticks([])
            if row == 0:
                one.set_title("\n".join(textwrap.wrap(prompt, LETTERS)), fontsize=6.5, va="bottom")
            if column == 0:
                one.set_ylabel(name)
        save_figure(figure, output)
