"""Which kernel computes attention."""

from collections.abc import Callable
from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffpo.core.refusal import Refusal


class FlashAttention(AttnProcessor2_0):
    """Attention by torch's flash kernel, or an error where it cannot run."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return super().__call__(*args, **kwargs)


def use_xformers(unet: Any) -> None:
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError) as error:
        raise Refusal(
            f"base.attention xformers cannot be used ({error}); pip install xformers, or use native."
        ) from error


# diffusers' own `set_attention_backend` does nothing, silently, to the attention class that these UNets are made of.
ATTENTION: dict[str, Callable[[Any], None]] = {
    "native": lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
    "flash": lambda unet: unet.set_attn_processor(FlashAttention()),
    "xformers": use_xformers,
}


def attend_unet(unet: Any, kind: str) -> None:
    """Let a UNet compute attention by one of these kernels."""
    ATTENTION[kind](unet)
