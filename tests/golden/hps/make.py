"""Golden scores of HPSv2 and HPSv2.1, by the package hpsv2 1.2.0 on tiny random weights.

Made with Python 3.11, torch 2.0.1, torchvision 0.15.2, transformers 4.27.4, timm 0.6.13, numpy 1.26.4, pillow 10.4.0,
ftfy 6.3.1, huggingface-hub 0.19.4 on a CPU:

    python3.11 -m venv old
    old/bin/pip install torch==2.0.1 torchvision==0.15.2 "numpy<2" transformers==4.27.4 timm==0.6.13 pillow==10.4.0 \
        ftfy==6.3.1 regex requests huggingface-hub==0.19.4 clint==0.5.1
    old/bin/pip install --no-deps hpsv2==1.2.0
    cp bpe_simple_vocab_16e6.txt.gz old/lib/python3.11/site-packages/hpsv2/src/open_clip/
    PYTHONPATH=tests old/bin/python tests/golden/hps/make.py

The wheel of hpsv2 lacks its tokenizer's merges; the file of the same name in open_clip_torch 3.3.0 takes their place.
The configuration of ViT-H-14 is replaced by a tiny one and both downloads by local files; all else, `hpsv2.score`
included, runs as published. It cannot take RGBA, nor what is 224 long and not square: those pictures are turned to RGB
and put on black by this script.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from golden.seeded import picture, weights
from PIL import Image

HERE = Path(__file__).parent
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
VERSIONS = {"v2.0": 0.2, "v2.1": 0.3}
FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
CASES = [
    ("a cat", 512, 512, "RGB"),
    ("a photograph of an astronaut riding a horse", 640, 400, "RGB"),
    ("A Cat with two HORNS on its head", 301, 500, "RGB"),
    ("it&#39;s   a\ncaf\u00c3\u00a9, 50% \u2014 \U0001f984!", 1000, 333, "RGB"),
    ("", 100, 61, "RGB"),
    ("a very detailed oil painting of a castle " * 12, 224, 224, "RGB"),
    ("gray", 321, 200, "L"),
    ("a wide picture that is 224 long", 224, 151, "RGB"),
    ("a tall picture that is 224 long", 151, 224, "RGB"),
    ("transparent", 400, 300, "RGBA"),
]


def pictures() -> list[Image.Image]:
    return [picture(width, height, seed, mode) for seed, (_, width, height, mode) in enumerate(CASES)]


def acceptable(image: Image.Image) -> Image.Image:
    """What the package can take."""
    image = image.convert("RGB") if image.mode == "RGBA" else image
    if max(image.size) != 224 or image.width == image.height:
        return image
    square = Image.new("RGB", (224, 224))
    square.paste(image, ((224 - image.width) // 2, (224 - image.height) // 2))
    return square


def digest(shapes: dict[str, list[int]]) -> str:
    """Of the names and shapes of weights."""
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()


def refused(score, image: Image.Image) -> str:
    try:
        score(image, "a cat")
    except RuntimeError as error:
        return str(error).splitlines()[0]
    raise AssertionError("the package takes this picture")


def main() -> None:
    import hpsv2
    import torch
    from hpsv2.src.open_clip import CLIP, factory

    with torch.device("meta"):
        published = CLIP(**factory.get_model_config("ViT-H-14")).state_dict()
    factory._MODEL_CONFIGS["ViT-H-14"] = ARCHITECTURE
    shapes = {name: list(value.shape) for name, value in CLIP(**ARCHITECTURE).state_dict().items()}
    made: dict[str, Any] = {"shapes": shapes, "scores": {}}
    made["published"] = digest({name: list(value.shape) for name, value in published.items()})
    with tempfile.TemporaryDirectory() as folder:
        for version, scale in VERSIONS.items():
            state = {name: torch.as_tensor(value) for name, value in weights(shapes, scale).items()}
            torch.save({"epoch": 1, "name": version, "state_dict": state}, Path(folder, FILES[version]))
        base = Path(folder, "base.pt")
        torch.save(state, base)
        local = mock.patch("huggingface_hub.hf_hub_download", lambda repository, name: str(Path(folder, name)))
        with local, mock.patch.object(factory, "download_pretrained", return_value=str(base)):
            for version in VERSIONS:
                made["scores"][version] = [
                    float(hpsv2.score(acceptable(image), prompt, hps_version=version)[0])
                    for (prompt, *_), image in zip(CASES, pictures(), strict=True)
                ]
            made["refused"] = [refused(hpsv2.score, image) for image in pictures()[-3:]]
    Path(HERE, "golden.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
