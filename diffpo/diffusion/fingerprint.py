"""What posteriors and text states depend on, so that encoded pairs never meet another VAE or text encoder."""

import hashlib
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from diffpo.diffusion.bases import SINGLE_FILES
from diffpo.diffusion.data import PairData
from diffpo.diffusion.encoded import EncodedPairs
from diffpo.diffusion.loading import StableDiffusion
from diffpo.hub import reaching
from diffpo.ledger import require_same

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def encoders(base: StableDiffusion) -> dict[str, Any]:
    """VAE and text encoders of a base.

    Weights on disk are known by what is in them, wherever they lie; those of the hub by name, revision and variant.
    """
    config = base.config if base.path.endswith(SINGLE_FILES) else base.path
    with reaching(config or base.path, "a diffusers pipeline"):
        index: Any = DiffusionPipeline.load_config(config, revision=base.revision) if config else {}
    return {
        "vae": named(base, ["vae"]) if base.vae is None else weights(base.vae, ["vae", ""]),
        "text_encoders": named(base, list(TEXT_ENCODERS)),
        "single_file_config": base.config if base.path.endswith(SINGLE_FILES) else None,
        "empty_prompt_is_zeros": bool(index.get("force_zeros_for_empty_prompt")),
    }


def named(base: StableDiffusion, parts: list[str]) -> str:
    if Path(base.path).exists():
        return weights(base.path, parts, base.variant)
    return " ".join(filter(None, [base.path, base.revision and f"@{base.revision}", base.variant]))


def weights(path: str, parts: list[str], variant: str | None = None) -> str:
    """A hash of weight files, or the name of what is on the hub."""
    root = Path(path)
    if not root.exists():
        return path
    files = [root] if root.is_file() else [file for part in parts for file in weight_files(root / part, variant)]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256 {digest.hexdigest()[:16]}"


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Those that are loaded: safetensors before bin, the variant before the others."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return [file for file in found if (f".{variant}" in file.stem if variant else "." not in file.stem)] or found


def require_encoded_for(base: StableDiffusion, data: PairData) -> None:
    """Raise a Refusal, saying what differs, if pairs were encoded by another VAE or other text encoders."""
    sources = [source for source in data.source.layouts if isinstance(source, EncodedPairs)]
    if not sources:
        return
    wanted = encoders(base)
    remedy = "encode the pairs anew with scripts/encode_pairs.py, or train the base that they were encoded for"
    for source in sources:
        require_same({key: source.encoding[key] for key in wanted}, wanted, source.folder, remedy)
