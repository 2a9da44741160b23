"""Pairs on a tiny base, of which one cannot be read, and what encoding makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import pair_folder, picture, saved, saved_xl

from diffpo.data.layouts import PairFolder
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import encode_pairs
from diffpo.diffusion.model.loading import StableDiffusion

TORN = 3


def world(root: Path, xl: bool = False, n: int = 8) -> Path:
    """A base in `base`; pairs of several sizes in `pairs`, number 3 torn."""
    (saved_xl if xl else saved)(root / "base")
    pair_folder(root / "pairs", n)
    picture(size=(96, 64), seed=99).save(root / "pairs" / "rejected" / "0.png")
    picture(size=(20, 48), seed=98).save(root / "pairs" / "chosen" / "1.png")
    (root / "pairs" / "chosen" / f"{TORN}.png").write_bytes(b"torn")
    return root


def base(root: Path) -> StableDiffusion:
    return StableDiffusion(str(root / "base"))


def pixels(root: Path, **changed: Any) -> PairData:
    settings = {"framing": Framing(32), "caption_dropout": 0.5, "workers": 0} | changed
    return PairData(PairFolder(str(root / "pairs")), **settings)


def encoded(
    root: Path,
    name: str = "encoded",
    dtype: str = "float32",
    batch_size: int = 2,
    encode: str = "pairs",
    **changed: Any,
) -> PairData:
    """The same pairs, read from `name`, which they are encoded into if they are not there."""
    data = pixels(root, **changed)
    encode_pairs(base(root), data, root / name, dtype, batch_size, encode=encode)
    return replace(data, source=EncodedPairs(str(root / name)))
