"""Warnings of libraries about nothing that a user did or could change: left out, each for its reason."""

import logging
import warnings

LOGGED = (
    # Diffusers imports bitsandbytes wherever it is installed, which then misses a faster product of 4-bit weights on
    # CPUs, whatever the run computes.
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),
    # Diffusers warns whenever a network is cast, in `from_pipe` for one, also one without a part that must not be.
    ("diffusers.models.modeling_utils", "should be kept in float32: []"),
    # Most LoRAs are of the UNet alone, ours among them.
    ("diffusers.loaders.lora_base", "No LoRA keys associated to CLIPTextModel"),
)
WARNED = (
    # Of diffusers, which passes it to the hub's library.
    "The `local_dir_use_symlinks` argument is deprecated",
    # Its new name is not known to the oldest transformers that we run with.
    "`gradient_checkpointing_enable` is deprecated",
    # Of peft, about adapters beside others: the negative half's beside those of the positive, on purpose.
    "Already found a `peft_config` attribute",
)
# Pillow's, about some picture of the data that it does not name: what cannot be read is a broken picture, and counted.
MODULES = (r"PIL\.",)


def leave_out_what_is_said_in_vain() -> None:
    """Once per process, before the libraries are imported."""
    for name, words in LOGGED:
        logging.getLogger(name).addFilter(lambda record, words=words: words not in record.getMessage())
    for begins in WARNED:
        warnings.filterwarnings("ignore", message=begins)
    for module in MODULES:
        warnings.filterwarnings("ignore", module=module)
