"""The adapter that a network hears users by: trained, switched off for the reference, saved and loaded."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.core.sharding import whole_state
from diffpo.diffusion.users.attention import (
    FILE,
    USER,
    branch_shapes,
    describe_kin,
    init_branch,
    install_branch,
    load_user_attention,
    user_input,
)
from diffpo.storage.files import sort_metadata
from diffpo.train.adapters import Adapter


@dataclass(frozen=True)
class UserBranch(Adapter):
    """PPD-style user conditioning (arXiv:2501.06655) by decoupled cross-attention (as in arXiv:2308.06721).

        Z' = softmax(Q K^T / sqrt(d)) V + softmax(Q K'^T / sqrt(d)) V',    K' = W'_k p,  V' = W'_v p,  p = W_in norm(u)

    Q, K and V are the base's own, u are the user's tokens, norm is a LayerNorm without gain and bias, W_in is shared
    by all layers, W'_v starts at zero and nothing has a bias. So the base is recovered bit for bit at the start, with
    the branch off, and for tokens of zeros (nobody), whatever the weights. The size of other tokens does not matter.
    A user of one token adds the same V' at every pixel: a softmax over one key is 1.

    At rank 32, for tokens of width 3584, the branch has 0.9 million weights (4 MB) in SD1.5, 5.4 million (22 MB) in
    SDXL.

    Args:
        tokens: of each user; VLM embeddings have one per layer and one for the input, 29 for Qwen2-7B.
        width: of one token; 3584 for Qwen2-7B.
        rank: numbers that W_in makes of a token.
        lora: adapters of the base that are trained along and belong to all users; null trains the branch alone. In
            the reference they are off, too. A LoRA that is to stay as it is has to be merged into the base.

    Raises:
        Refusal: if tokens, width or rank are not positive.
    """

    hears_users: ClassVar[bool] = True
    tokens: int
    width: int
    rank: int = 32
    lora: Adapter | None = None

    def __post_init__(self):
        if min(self.tokens, self.width, self.rank) < 1:
            raise Refusal(
                "UserBranch needs tokens, width and rank of at least 1, got "
                f"{self.tokens}, {self.width} and {self.rank}."
            )

    @property
    def start(self) -> str | None:
        return None if self.lora is None else self.lora.start

    @property
    def tags(self) -> tuple[str, ...]:
        return ("personalization", *(() if self.lora is None else self.lora.tags))

    def attach(self, network: Any, seed: int = 0) -> None:
        if not isinstance(network, UNet2DConditionModel):
            raise Refusal(
                f"UserBranch is for UNets of Stable Diffusion, and this network is a {type(network).__name__}; set "
                "base.adapter to diffpo.diffusion.LoRA, or train another base."
            )
        if self.lora is None:
            network.requires_grad_(False)
        else:
            self.lora.attach(network, seed)
        install_branch(network, self.tokens, init_branch(branch_shapes(network, self.width, self.rank), seed))

    @contextmanager
    def off(self, network: Any) -> Iterator[None]:
        branch = user_input(network)
        with nullcontext() if self.lora is None else self.lora.off(network):
            branch.on = False
            try:
                yield
            finally:
                branch.on = True

    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Write `user_attention.safetensors`: the branch alone, named by the UNet's layers, in fp32."""
        if self.lora is not None:
            self.lora.save(pipeline, folder, writes)
        weights = whole_state(pipeline.unet, branch_shapes(pipeline.unet, self.width, self.rank), keep=writes)
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            told = {"tokens": str(self.tokens), "pipeline": type(pipeline).__name__, **describe_kin(pipeline.unet)}
            save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / FILE, told)
            sort_metadata(folder / FILE)

    def load(self, pipeline: Any, folder: Path) -> None:
        if self.lora is not None:
            self.lora.load(pipeline, folder)
        load_user_attention(pipeline.unet, str(folder))

    def snippet(self, where: str) -> list[str]:
        return [
            *([] if self.lora is None else self.lora.snippet(where)),
            "",
            "from diffpo.diffusion import load_user_attention",
            "",
            f'load_user_attention(pipe.unet, "{where}")',
            f'# then unet(..., cross_attention_kwargs={{"{USER}": user}}), user: (n, {self.tokens}, {self.width})',
        ]
