"""Golden CLIP scores, by torchmetrics 0.11.4 on tiny random weights.

Made with Python 3.11, torch 2.0.1, transformers 4.27.4, tokenizers 0.13.3, torchmetrics 0.11.4, numpy 1.26.4,
pillow 10.4.0 on a CPU:

    python3.11 -m venv old
    old/bin/pip install torch==2.0.1 "numpy<2" transformers==4.27.4 torchmetrics==0.11.4 pillow==10.4.0
    PYTHONPATH=tests old/bin/python tests/golden/clip_score/make.py

`clip_score(picture, prompt)` runs as published; the hub id is replaced by a folder in the format in which CLIP
ViT-L/14 was published, with a tiny model and tokenizer. It sets scores below 0 to 0: those are marked, and the number
before is stored. It fails for prompts of more than 77 tokens: theirs is transformers' CLIPModel with truncation.
"""

import json
import tempfile
from pathlib import Path

from golden.pickscore.files import CONFIG, VIT_L_14, write_model, write_processor
from golden.seeded import picture
from PIL import Image

HERE = Path(__file__).parent
ACT = "quick_gelu"
CASES = [
    ("a cat", 512, 512),
    ("a photograph of an astronaut riding a horse", 640, 400),
    ("A Cat with two HORNS on its head, don't you think?", 301, 500),
    ("it&#39;s   a\ncaf\u00e9, 50% \u2014!", 1000, 333),
    ("", 100, 61),
    ("a horse", 224, 224),
    ("a very detailed oil painting of a castle " * 12, 300, 224),
]


def pictures() -> list[Image.Image]:
    return [picture(width, height, 20 + seed) for seed, (_, width, height) in enumerate(CASES)]


def main() -> None:
    import numpy as np
    import torch
    from torchmetrics.functional.multimodal import clip_score
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    shapes = {name: list(value.shape) for name, value in CLIPModel(CLIPConfig(**CONFIG)).state_dict().items()}
    scores, clipped = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), shapes, ACT)
        write_processor(Path(folder), VIT_L_14)
        model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
        for (prompt, *_), image in list(zip(CASES, pictures(), strict=True))[:-1]:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            with torch.no_grad():
                scores.append(float(_clip_score_update(pixels, prompt, model, processor)[0]))
                clipped.append(float(clip_score(pixels, prompt, folder)) == 0 > scores[-1])
    inputs = processor(
        text=CASES[-1][0], images=pictures()[-1], padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        done = model(**inputs)
    scores.append(100 * float(done.text_embeds[0] @ done.image_embeds[0]))
    made = {"shapes": shapes, "scores": scores, "clipped": clipped}
    (HERE / "golden.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
