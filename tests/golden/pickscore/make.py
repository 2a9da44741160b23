"""Golden scores of PickScore, by the inference snippet of github.com/yuvalkirstain/PickScore on tiny random weights.

Made with the README at commit 013b54d70bf3bd9112251e7ab5ea8b2e915de3dc and Python 3.11, torch 2.0.1,
transformers 4.27.4, tokenizers 0.13.3, numpy 1.26.4, pillow 10.4.0 on a CPU:

    python3.11 -m venv old
    old/bin/pip install torch==2.0.1 "numpy<2" transformers==4.27.4 pillow==10.4.0
    PYTHONPATH=tests old/bin/python tests/golden/pickscore/make.py

Both hub ids of the snippet are replaced by folders in the format in which those were published: a tiny model with a
tiny tokenizer, and the image processor's configuration of CLIP ViT-H/14. The steps and arguments are the snippet's.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from golden.pickscore.files import CONFIG, VIT_H_14, write_model, write_processor
from golden.seeded import picture
from PIL import Image

HERE = Path(__file__).parent
CASES = [
    ("a cat", 512, 512, "RGB"),
    ("a photograph of an astronaut riding a horse", 640, 400, "RGB"),
    ("A Cat with two HORNS on its head, don't you think?", 301, 500, "RGB"),
    ("it&#39;s   a\ncaf\u00e9, 50% \u2014 \U0001f984!", 1000, 333, "RGB"),
    ("", 100, 61, "RGB"),
    ("a very detailed oil painting of a castle " * 12, 224, 224, "RGB"),
    ("gray", 321, 200, "L"),
    ("a wide picture with a short side of 224", 301, 224, "RGB"),
    ("a picture that needs one more row", 224, 223, "RGB"),
    ("transparent", 400, 300, "RGBA"),
]


def pictures() -> list[Image.Image]:
    return [picture(width, height, seed, mode) for seed, (_, width, height, mode) in enumerate(CASES)]


def main() -> None:
    import torch
    from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

    shapes = {name: list(value.shape) for name, value in CLIPModel(CLIPConfig(**CONFIG)).state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), shapes)
        write_processor(Path(folder), VIT_H_14)
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    scores, cosines = [], []
    for (prompt, *_), image in zip(CASES, pictures(), strict=True):
        with torch.no_grad():
            seen = model.get_image_features(**processor(images=[image], **options))
            seen = seen / torch.norm(seen, dim=-1, keepdim=True)
            asked = model.get_text_features(**processor(text=prompt, **options))
            asked = asked / torch.norm(asked, dim=-1, keepdim=True)
            cosines.append(float((asked @ seen.T)[0, 0]))
            scores.append(float(model.logit_scale.exp() * (asked @ seen.T)[0, 0]))
    made = {"shapes": shapes, "scores": scores, "cosines": cosines}
    (HERE / "golden.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
