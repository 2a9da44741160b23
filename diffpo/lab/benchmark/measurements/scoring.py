"""Pictures scored per second: diffpo's scorers against one picture at a time, as published snippets do it.

python scripts/benchmark.py scoring --output_dir runs/benchmark_scoring

Same weights, same files, same run; the two take turns. Weights are random, so nothing is downloaded.
"""

import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from diffpo.data.files.pictures import read_image
from diffpo.diffusion.annotate.read_ahead import Question, score_batches
from diffpo.scorers.pickscore import PickScore

SHAPES = {
    "tiny": {"width": 64, "layers": 2, "heads": 4, "patch": 32, "text": (64, 2, 4)},
    "vit_b_32": {"width": 768, "layers": 12, "heads": 12, "patch": 32, "text": (512, 12, 8)},
    "vit_h_14": {"width": 1280, "layers": 32, "heads": 16, "patch": 14, "text": (1024, 24, 16)},
}


def main(
    output_dir: Path,
    shape: Literal["tiny", "vit_b_32", "vit_h_14"] = "vit_b_32",
    pictures: int = 64,
    per_prompt: int = 2,
    side: int = 512,
    batch_size: int = 32,
    rounds: int = 3,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    settings: str = "",
) -> None:
    """Measure both ways in turn and print their ratio.

    Args:
        output_dir: gets the pictures, the model and `scoring.json`.
        shape: of the CLIP; vit_h_14 is PickScore's.
        pictures: number of files.
        per_prompt: pictures of one prompt.
        side: of a picture in pixels.
        batch_size: of diffpo's scorer.
        rounds: repetitions after one to warm up.
        dtype: of the network, in both ways.
        settings: the resolved config.
    """
    model = random_clip(SHAPES[shape], output_dir / shape)
    files = random_pictures(output_dir / f"pictures-{side}", pictures, side)
    prompts = [f"a picture of something, number {n // per_prompt}" for n in range(pictures)]
    precision = getattr(torch, dtype)
    ways = {
        "one at a time": OneAtATime(model, precision),
        "diffpo": partial(batched, PickScore.from_pretrained(str(model), dtype=precision, batch_size=batch_size)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores = {}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            scores[name] = way(prompts, files)
            seconds[name].append(time.perf_counter() - began)
    apart = max(abs(np.subtract(*scores.values())))
    ratio = statistics.median(a / b for a, b in zip(*(times[1:] for times in seconds.values()), strict=True))
    rates = {name: pictures / statistics.median(times[1:]) for name, times in seconds.items()}
    found = {"shape": shape, "side": side, "pictures_per_second": rates, "ratio": ratio, "largest_difference": apart}
    (output_dir / "scoring.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, rate in rates.items():
        print(f"{name:<16}{rate:8.2f} pictures/s")
    print(f"{ratio:.2f} times as many; scores differ by at most {apart:.1e}")


class OneAtATime:
    """What PickScore's model card shows, for each picture with its prompt."""

    def __init__(self, model: Path, dtype: torch.dtype):
        self.device: Any = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.model: Any = CLIPModel.from_pretrained(model, dtype=dtype).eval().to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.processor = AutoImageProcessor.from_pretrained(model, backend="pil")

    @torch.no_grad()
    def __call__(self, prompts: list[str], files: list[Path]) -> list[float]:
        return [self.score(prompt, Image.open(file)) for prompt, file in zip(prompts, files, strict=True)]

    def score(self, prompt: str, picture: Image.Image) -> float:
        pixels = self.processor(picture, return_tensors="pt").pixel_values.to(self.device, self.model.dtype)
        options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
        tokens = self.tokenizer([prompt], **options | {"padding": "max_length"}).to(self.device)
        image = self.model.get_image_features(pixel_values=pixels).pooler_output
        text = self.model.get_text_features(**tokens).pooler_output
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        return (self.model.logit_scale.exp() * (text @ image.T))[0, 0].item()


def batched(scorer: PickScore, prompts: list[str], files: list[Path]) -> list[float]:
    questions = [
        Question(n, prompt, partial(read_image, str(file)))
        for n, (prompt, file) in enumerate(zip(prompts, files, strict=True))
    ]
    scorer.encoded.clear()  # every round starts from nothing
    answers = [scores for batch in score_batches([scorer], questions, scorer.batch_size) for _, scores in batch]
    return [float(scores["pickscore"] or 0) for scores in answers]


def random_clip(shape: dict[str, Any], folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained("assets/tiny-sd/tokenizer", model_max_length=77)
    width, layers, heads = shape["text"]
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    vision = {"hidden_size": shape["width"], "intermediate_size": 4 * shape["width"]}
    vision |= {"num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"]}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config={**text, **tokens, "num_attention_heads": heads, "vocab_size": len(tokenizer)},
        vision_config={**vision, "patch_size": shape["patch"]},
        projection_dim=width,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def random_pictures(folder: Path, number: int, side: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = [folder / f"{n:05d}.png" for n in range(number)]
    for file in files:
        coarse = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(file)
    return files
