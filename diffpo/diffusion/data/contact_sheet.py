"""The first pairs on one sheet, as the network gets them: cropped, mirrored, with prompt and label."""

from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.diffusion.data.batches import EncodedBatch, PixelBatch, PromptBatch, Raw

SIDE, GAP, SIZE, LINES = 256, 12, 13, 4  # pixels of a picture's long side, between pictures, of letters; lines a text
WIDE = SIDE // 6  # letters in a line
COLUMNS, INK, PALE = 2, "#222222", "#dddddd"


def draw_sheet(batch: Raw, pictures: list[list[Image.Image]], notes: list[str]) -> Image.Image:
    """Two columns of pairs, the best candidate on the left of each.

    Args:
        pictures: by candidate, then by pair.
        notes: what is said of each pair.
    """
    k, font, line = len(pictures), ImageFont.load_default(SIZE), SIZE + 3
    wide, high = k * (SIDE + GAP) + 2 * GAP, 2 * GAP + SIDE + line * (LINES + 1)
    sheet = Image.new("RGB", (GAP + COLUMNS * wide, GAP + -(-len(notes) // COLUMNS) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for b, note in enumerate(notes):
        left, top = GAP + b % COLUMNS * wide, GAP + b // COLUMNS * high
        draw.text((left, top), note, INK, font)
        for side in range(k):
            shown, x, y = enlarged(pictures[side][b]), left + side * (SIDE + GAP), top + line + 4
            sheet.paste(shown, (x, y))
            draw.rectangle((x - 1, y - 1, x + shown.width, y + shown.height), None, PALE)
            draw.multiline_text((x, y + SIDE + 4), "\n".join(shortened(prompt_of(batch, side, b))), INK, font)
    return sheet


def enlarged(picture: Image.Image) -> Image.Image:
    """The same pixels, as large as there is room."""
    scale = SIDE / max(picture.size)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), how)


def shortened(text: str) -> list[str]:
    lines = wrap(text, WIDE) or ["(empty prompt)"]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1][: WIDE - 2]} …"]


def prompt_of(batch: Raw, side: int, pair: int) -> str:
    if isinstance(batch, EncodedBatch):
        return "(the prompt is encoded)"
    return batch.prompts[side][pair]


def read_pictures(batch: Raw, decode: Callable[[Tensor], Tensor] | None) -> list[list[Image.Image]]:
    """The pictures of a batch, by candidate and pair: pixels as they are, latents decoded, blanks where they are to be
    drawn first.

    Args:
        decode: from latents that a network sees to pixels from -1 to 1; read if pictures are encoded.
    """
    if isinstance(batch, PixelBatch):
        return [[picture_of(pixels) for pixels in side] for side in batch.pixels]
    if isinstance(batch, PromptBatch):
        return [[Image.new("RGB", (batch.side, batch.side), PALE) for _ in side] for side in batch.prompts]
    assert decode is not None
    latents = batch.mean.float() * batch.scaling
    with torch.no_grad():
        return [[picture_of(round_pixels(decode(picture[None]))) for picture in side] for side in latents]


def round_pixels(pixels: Float[Tensor, "1 3 H W"]) -> UInt8[Tensor, "3 H W"]:
    return ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def picture_of(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def tell_pairs(batch: Raw, mirrored: Sequence[bool]) -> Iterator[str]:
    """What is said of each pair: its row, label, crops and flip."""
    sizes: Sequence[Sequence[Any]] = batch.time_ids.int().tolist() if isinstance(batch, PixelBatch) else ()
    for b, row in enumerate(batch.row):
        crops = dict.fromkeys(f"of {w} x {h} from ({x}, {y})" for h, w, y, x, *_ in (side[b] for side in sizes))
        parts = [f"row {row}", tell_label(batch.label, b), " and ".join(crops), "mirrored" if mirrored[b] else ""]
        yield ", ".join(part for part in parts if part)


def tell_label(label: PairLabels, pair: int) -> str:
    """How sure the data are that the first candidate is better, what they weigh, and scores where there are some."""
    scores = label.score[:, pair].tolist()
    parts = [f"P {label.prob[pair].item():.3g}", f"weight {label.weight[pair].item():.3g}"]
    return ", ".join(parts + [f"scores {', '.join(f'{score:.3g}' for score in scores)}"] * any(scores))


def find_mirrored(batch: Raw, reader: Any) -> list[bool]:
    """Which pairs of a batch are mirrored in this visit."""
    if isinstance(batch, PromptBatch):
        return [False] * len(batch.row)
    visits = zip(batch.epoch, batch.row, strict=True)
    return [reader.framing.mirrors(Draws(reader.seed, (epoch,), (row,))) for epoch, row in visits]
