"""Golden scores of the LAION aesthetic predictor, by its own code and OpenAI's CLIP on tiny random weights.

Made with Python 3.11, torch 2.0.1, torchvision 0.15.2, clip-anytorch 2.6.0 (OpenAI's package clip), numpy 1.26.4,
pillow 10.4.0 on a CPU. The predictor is simple_inference.py of the repository
github.com/christophschuhmann/improved-aesthetic-predictor at commit 6934dd81792f086e613a121dbce43082cb8be85e. That is
no package: the path of the file is this script's argument.

    python3.11 -m venv old
    old/bin/pip install torch==2.0.1 torchvision==0.15.2 "numpy<2" pillow==10.4.0 ftfy==6.3.1 regex
    old/bin/pip install --no-deps clip-anytorch==2.6.0
    PYTHONPATH=tests old/bin/python tests/golden/aesthetic/make.py simple_inference.py

Of the predictor its class `MLP` and its function `normalized` run as they are; the lines that call them name a GPU and
fixed files, and are written out here. The base class of `MLP`, for training, is replaced by torch's. `clip.load` reads
a tiny state dict in place of ViT-L/14; it rounds weights to fp16 (those of ViT-L/14 are), so that these are rounded.
"""

import ast
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from golden.seeded import picture, weights
from PIL import Image

HERE = Path(__file__).parent
EMBEDDING, PIXELS, PATCH = 24, 224, 32
CASES = [
    (512, 512, "RGB", 1),
    (640, 400, "RGB", 2),
    (301, 500, "RGB", 3),
    (97, 64, "RGB", 4),
    (333, 1000, "RGB", 5),
    (224, 251, "RGB", 6),
    (251, 224, "RGB", 7),
    (400, 300, "L", 8),
    (300, 400, "RGBA", 9),
]


def tower(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(drawn).half().float() for name, drawn in weights(shapes, 0.2).items()}


def head(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(drawn) for name, drawn in weights(shapes, 0.15).items()}


def shown(width: int, height: int, mode: str, seed: int) -> Image.Image:
    """Opaque: of a transparent picture the original blends the edges of transparent parts."""
    return picture(width, height, seed).convert(mode)


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def published(source: Path) -> SimpleNamespace:
    """`MLP` and `normalized` of the original script, without the lines that run it."""
    kept = [node for node in ast.parse(source.read_text()).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    scope = {"pl": SimpleNamespace(LightningModule=torch.nn.Module), "nn": torch.nn}
    exec(compile(ast.Module(kept, []), str(source), "exec"), scope)
    return SimpleNamespace(**scope)


@torch.no_grad()
def run(source: Path, place: Path) -> dict[str, Any]:
    import clip
    from clip.model import CLIP

    original = published(source)
    # Embedding, pixels, layers, width, patch; then the text encoder's words, vocabulary, width, heads, layers.
    sizes = shapes_of(CLIP(EMBEDDING, PIXELS, 2, 128, PATCH, 8, 10, 64, 1, 1))
    torch.save(tower(sizes), place / "clip.pt")
    model, preprocess = clip.load(str(place / "clip.pt"), device="cpu")
    stack = original.MLP(EMBEDDING).eval()
    widths = shapes_of(stack)
    stack.load_state_dict(head(widths))
    scores = []
    for case in CASES:
        embedded = model.encode_image(preprocess(shown(*case)).unsqueeze(0))
        unit = original.normalized(embedded.numpy())
        scores.append(stack(torch.from_numpy(unit).float()).item())
    vision = {name: shape for name, shape in sizes.items() if name.startswith("visual.")}
    return {"scores": scores} | {
        part: {name: " ".join(map(str, shape)) for name, shape in shapes.items()}
        for part, shapes in {"tower": vision, "head": widths}.items()
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = run(Path(sys.argv[1]), Path(place))
    (HERE / "golden.json").write_text(json.dumps(found, indent=1) + "\n")
