import json

import numpy as np
import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.listing import LISTING
from diffpo.lab.figures.comparison import main
from diffpo.storage.ledger import write_named

COLORS = {"base": (255, 0, 0), "tuned": (0, 0, 255)}


@pytest.fixture
def models(tmp_path):
    return {name: keep_pictures(tmp_path / name, color, ["a circle", "a square"]) for name, color in COLORS.items()}


def keep_pictures(folder, color, prompts):
    folder.mkdir()
    for number in range(len(prompts)):
        Image.new("RGB", (8, 8), color).save(folder / f"{number}.png")
    lines = [json.dumps({"prompt": prompt, "file": f"{number}.png"}) for number, prompt in enumerate(prompts)]
    write_named(folder / LISTING, "\n".join(lines).encode())
    return folder


def test_each_model_has_a_row(models, tmp_path):
    main(models, (1, 0), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    rows = {name: np.nonzero((sheet == color).all(-1))[0] for name, color in COLORS.items()}
    assert min(len(pixels) for pixels in rows.values()) > 2 * 80 * 80  # enlarged
    assert rows["base"].max() < rows["tuned"].min()


def test_other_prompts_are_no_comparison(models, tmp_path):
    models["other"] = keep_pictures(tmp_path / "other", (0, 0, 0), ["a circle", "a cross"])
    with pytest.raises(Refusal, match="other was not drawn from the prompts of base"):
        main(models, (0,), tmp_path / "sheet.png")


@pytest.mark.parametrize("picks", [(2,), (-1,), ()])
def test_lines_that_are_not_there_are_refused(models, picks, tmp_path):
    with pytest.raises(Refusal, match="lines 0 to 1"):
        main(models, picks, tmp_path / "sheet.png")
