"""Encode the pictures and prompts of pairs once; training then needs neither VAE nor text encoders.

accelerate launch scripts/encode_pairs.py --config configs/encode/tiny.yaml --output_dir encoded
"""

from pathlib import Path
from typing import Any

import diffusers
import transformers

from diffpo.diffusion.data.encoded import SUMMARY
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import Precision, Stored, encode_pairs
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.storage.job_folder import join_processes, tell_result


def main(
    base: StableDiffusion,
    data: PairData,
    output_dir: Path,
    dtype: Precision = "float32",
    batch_size: int = 32,
    seed: int = 0,
    encode: Stored = "pairs",
    settings: str = "",
) -> None:
    """Encode the pictures and prompts of pairs once; training then needs neither VAE nor text encoders.

    Args:
        base: whose VAE and text encoders encode.
        data: the pairs: source, row maps (what they drop is not encoded), framing (with flip, each picture is encoded
            twice) and workers are read.
        output_dir: gets arrow shards that diffpo.diffusion.EncodedPairs reads, and encoding.json. After a
            kill, the same command goes on where it stopped.
        dtype: of text states. float32 also keeps latents as the VAE gives them, the others round them to float16.
        batch_size: pictures, and prompts, that are encoded at a time.
        seed: of the row maps.
        encode: `pictures` stores latents alone, and a run on them keeps the text encoders: for families whose prompts
            have large states (FLUX.1, FLUX.2, SD3).
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    accelerator = join_processes()
    is_finished = (output_dir / SUMMARY).exists()
    found = encode_pairs(base, data, output_dir, dtype, batch_size, seed, encode)
    if accelerator.is_main_process:
        tell_result(output_dir, is_finished, settings, "encoded", describe_encoding(found, output_dir))
    accelerator.end_training()


def describe_encoding(found: dict[str, Any], output_dir: Path) -> str:
    """The summary in a sentence."""
    what, cut = f"{found['pairs']} pairs and {found['prompts']} prompts encoded", ""
    if "encode" in found:
        what = f"pictures of {found['pairs']} pairs encoded, and none of {found['prompts']} prompts"
    else:
        cut = f"; {found['truncated']} prompts were longer than {found['longest']} tokens and cut"
    return (
        f"{what}, {found['bytes'] / 2**30:.2f} GiB; {found['unreadable']} pairs have a picture that could not be "
        f"read{cut}. To train on them: "
        f"--data.source=diffpo.diffusion.EncodedPairs --data.source.path={output_dir}"
    )
