"""What posteriors and text states depend on, so that encoded pairs never meet another VAE or text encoder."""

import hashlib
import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from diffpo.diffusion.base.files import loaded_files
from diffpo.diffusion.base.latents import NORMALIZED
from diffpo.diffusion.base.single_files import is_single
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.ledger import require_same

QUANTIZED = "quantized_text_encoders"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def list_encoders(base: StableDiffusion, texts: bool = True) -> dict[str, Any]:
    """VAE and text encoders of a base, or what latents alone depend on.

    Weights on disk are known by what is in them, wherever they lie; those of the hub by name, revision and variant.
    """
    config = base.config if is_single(base.path) else base.path
    with name_failed_loads(config or base.path, "a diffusers pipeline"):
        index: Any = DiffusionPipeline.load_config(config, revision=base.revision) if config else {}
    found = {
        "vae": name_base(base, ["vae"]) if base.vae is None else hash_weights(base.vae, ["vae", ""]),
        "single_file_config": base.config if is_single(base.path) else None,
        **read_normalization(base),
    }
    if not texts:  # settings of a family are of texts
        return found if base.family is None else {**found, "family": type(base.family).__name__}
    return {
        **found,
        "text_encoders": name_base(base, list(TEXT_ENCODERS)),
        "empty_prompt_is_zeros": bool(index.get("force_zeros_for_empty_prompt")),
        **({} if base.quantize_text_encoders is None else {QUANTIZED: base.quantize_text_encoders}),
        **({} if base.family is None else {"family": repr(base.family)}),
    }


def read_normalization(base: StableDiffusion) -> dict[str, list[float]]:
    """What the config of a VAE on disk says of its latents by channel, if it says something; names tell the others."""
    origin = Path(base.vae or (base.config if is_single(base.path) else None) or base.path)
    found = [place / "config.json" for place in (origin / "vae", origin) if (place / "config.json").exists()]
    config = json.loads(found[0].read_text()) if found else {}
    return {name: config[name] for name in NORMALIZED if config.get(name) is not None}


def name_base(base: StableDiffusion, parts: list[str]) -> str:
    if Path(base.path).exists():
        return hash_weights(base.path, parts, base.variant)
    return " ".join(filter(None, [base.path, base.revision and f"@{base.revision}", base.variant]))


def hash_weights(path: str, parts: list[str], variant: str | None = None) -> str:
    """A hash of weight files, or the name of what is on the hub."""
    root = Path(path)
    if not root.exists():
        return path
    files = [root] if root.is_file() else [file for part in parts for file in loaded_files(root / part, variant)]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256 {digest.hexdigest()[:16]}"


def require_encoded_for(base: StableDiffusion, data: PairData) -> None:
    """Raise a Refusal, saying what differs, if pairs were encoded by another VAE or other text encoders."""
    sources = [source for source in data.source.layouts if isinstance(source, EncodedPairs)]
    if not sources:
        return
    remedy = "encode the pairs anew with scripts/encode_pairs.py, or train the base that they were encoded for"
    asked = {texts: list_encoders(base, texts) for texts in {source.stores_prompts for source in sources}}
    for source in sources:
        wanted = asked[source.stores_prompts]
        compared = wanted.keys() | (source.encoding.keys() & {*NORMALIZED, QUANTIZED})
        require_same({key: source.encoding.get(key) for key in compared}, wanted, source.folder, remedy)
