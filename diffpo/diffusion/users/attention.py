"""Cross-attention to a user beside that to the text, in every cross-attention of a Stable Diffusion UNet."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.attention import FlashAttention
from diffpo.storage.digests import require_exported
from diffpo.storage.hub import locate_file, name_failed_loads

FILE = "user_attention.safetensors"
USER = "user_embeds"
# The name under which normalized tokens travel on to the layers: one that layers without a use for it pass over in
# silence. Under most others, diffusers warns at every self-attention of every pass.
HEARD = "ip_hidden_states"
KERNELS: dict[type, Callable[[], AbstractContextManager]] = {
    AttnProcessor2_0: nullcontext,
    FlashAttention: partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION),
}


def load_user_attention(unet: Any, path: str, revision: str | None = None) -> None:
    """Add a trained branch to the UNet of a pipeline, in its type and on its device.

    Users are then told by `cross_attention_kwargs={"user_embeds": (n, tokens, width)}`, one row for each picture that
    the UNet sees; zeros are no user. Attention slicing, fused projections, xformers and IP-adapters replace the layers
    that hear: a call with a user then raises. `unet.save_pretrained` writes the branch, but diffusers does not read it
    again (it warns of unused weights): keep the file.

    Args:
        path: hub id, folder or file.
        revision: of a hub id.

    Raises:
        Refusal: if it cannot be reached or read, or is of another UNet, or the UNet has a branch already, or if it is
            not what a run has exported there.
    """
    require_exported(Path(path))
    with name_failed_loads(path, "user attention"):
        try:
            with safe_open(locate_file(path, FILE, revision), "pt") as file:
                told = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise Refusal(f"it is damaged ({error}); fetch it again") from error
        if "tokens" not in told or "user_in.weight" not in weights:
            raise Refusal(f"it lacks user_in.weight or the number of tokens; name a {FILE}")
    rank, width = weights["user_in.weight"].shape
    wanted: dict[str, Any] = describe_kin(unet) | branch_shapes(unet, width, rank)
    found = told | {name: tuple(weight.shape) for name, weight in weights.items()}
    names = wanted | {name: None for name in weights}
    if misfits := [name for name in names if wanted.get(name) != found.get(name)]:
        there, here = (it.get(misfits[0], "absent") for it in (found, wanted))
        raise Refusal(
            f"{path} is of another UNet (of a {told.get('pipeline')}): {misfits[0]} is {there} there and {here} here; "
            "load it into the base that it was trained for."
        )
    install_branch(unet, int(told["tokens"]), {name: weight.to(unet.dtype) for name, weight in weights.items()})
    user_input(unet).requires_grad_(False)
    for attention in user_input(unet).attentions:
        attention.user_k.requires_grad_(False)
        attention.user_v.requires_grad_(False)


class UserInput(nn.Linear):
    """W_in, and the ear of the network: a hook that turns `user_embeds` into what the layers read.

    Attributes:
        on: whether users are heard.
        attentions: the layers that have a branch.
    """

    def __init__(self, tokens: int, weight: Float[Tensor, "rank width"], attentions: tuple[Attention, ...]):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight)
        self.tokens, self.attentions, self.on = tokens, attentions, True

    def hear(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called before the UNet. It has no business with weights: an offloaded UNet has not arrived by then."""
        told = dict(kwargs.get("cross_attention_kwargs") or {})
        user = told.pop(USER, None)
        if self.on and user is not None:
            self.require(user, len(args[0] if args else kwargs["sample"]))
            told[HEARD] = layer_norm(user.float(), user.shape[-1:], eps=1e-8)
        return args, kwargs | {"cross_attention_kwargs": told}

    def require(self, user: Tensor, rows: int) -> None:
        """Refuse users whom the network would mishear."""
        if user.shape != (rows, self.tokens, self.in_features):
            raise Refusal(
                f"{USER} is {tuple(user.shape)}, the UNet takes {(rows, self.tokens, self.in_features)}: a row per "
                "picture, and embeddings of the encoder that the branch was trained with."
            )
        lost = [layer for layer in self.attentions if not isinstance(layer.processor, UserCrossAttention)]
        if lost:
            raise Refusal(
                f"{len(lost)} of {len(self.attentions)} user attentions were replaced by "
                f"{type(lost[0].processor).__name__}; load pipeline and user attention anew, without attention "
                "slicing, fused projections, xformers and IP-adapters."
            )


class UserCrossAttention(AttnProcessor2_0):
    """softmax(Q K^T / sqrt(d)) V + softmax(Q K'^T / sqrt(d)) V' before the output projection (arXiv:2501.06655).

    Args:
        user_in: W_in. W'_k and W'_v are `user_k` and `user_v` of the layer.
        kernel: inside which torch attends.
    """

    def __init__(self, user_in: UserInput, kernel: Callable[[], AbstractContextManager]):
        super().__init__()
        self.user_in, self.kernel = user_in, kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "n pixels c"],
        encoder_hidden_states: Float[Tensor, "n l d"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        ip_hidden_states: Float[Tensor, "n u e"] | None = None,
    ) -> Float[Tensor, "n pixels c"]:
        with self.kernel():
            if ip_hidden_states is None or encoder_hidden_states is None:
                return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            heads: Callable[[Tensor], Tensor] = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
            if attention_mask is not None:
                attention_mask = attn.prepare_attention_mask(
                    attention_mask, encoder_hidden_states.shape[1], len(hidden_states)
                ).unflatten(0, (-1, attn.heads))
            query = heads(attn.to_q(hidden_states))
            key, value = heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states))
            text = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
            user = self.user_in(ip_hidden_states.to(self.user_in.weight.dtype))
            heard = scaled_dot_product_attention(query, heads(attn.user_k(user)), heads(attn.user_v(user)))
            return attn.to_out[1](attn.to_out[0]((text + heard).transpose(1, 2).flatten(2)))


def user_input(unet: nn.Module) -> UserInput:
    """The shared part of a UNet's branch: its `tokens` and `in_features` are what users have to have."""
    for module in unet.children():
        if isinstance(module, UserInput):
            return module
    raise Refusal(f"{type(unet).__name__} has no user attention; load it with load_user_attention.")


def branch_shapes(unet: nn.Module, width: int, rank: int) -> dict[str, tuple[int, int]]:
    """Names and shapes of a branch's weights."""
    layers = {f"{name}.user_{x}.weight": (a.inner_dim, rank) for name, a in cross_attentions(unet) for x in "kv"}
    return {"user_in.weight": (rank, width), **layers}


def describe_kin(unet: Any) -> dict[str, str]:
    """What a branch's shapes do not tell: those of Stable Diffusion 1.x and 2.x are the same."""
    return {"cross_attention_dim": str(unet.config.cross_attention_dim)}


def cross_attentions(unet: nn.Module) -> list[tuple[str, Any]]:
    return [(n, m) for n, m in unet.named_modules() if isinstance(m, Attention) and m.is_cross_attention]


def init_branch(wanted: Mapping[str, tuple[int, int]], seed: int) -> dict[str, Tensor]:
    """Weights at the start: values are zero, the rest keeps variance 1."""
    rng = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=rng) / shape[1] ** 0.5 for name, shape in wanted.items()}
    return {name: torch.zeros_like(w) if name.endswith(".user_v.weight") else w for name, w in drawn.items()}


def install_branch(unet: Any, tokens: int, weights: Mapping[str, Tensor]) -> None:
    """Put a branch of these weights into a UNet.

    Raises:
        Refusal: if it has one already, or its attention is of a kind that has none.
    """
    if any(isinstance(module, UserInput) for module in unet.children()):
        raise Refusal("The UNet has user attention already; load the base anew.")
    layers = cross_attentions(unet)
    if odd := [type(a.processor).__name__ for _, a in layers if type(a.processor) not in KERNELS]:
        raise Refusal(f"User attention cannot stand in for {odd[0]}; use base.attention native or flash.")

    def linear(name: str) -> nn.Linear:
        weight = weights[name].to(unet.device)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight)
        return layer

    user_in = UserInput(tokens, weights["user_in.weight"].to(unet.device), tuple(a for _, a in layers))
    for name, attention in layers:
        attention.user_k, attention.user_v = linear(f"{name}.user_k.weight"), linear(f"{name}.user_v.weight")
        attention.set_processor(UserCrossAttention(user_in, KERNELS[type(attention.processor)]))
    unet.user_in = user_in
    unet.register_forward_pre_hook(user_in.hear, with_kwargs=True)
