"""Tiny pipelines as one file, in the layout of the first Stable Diffusion and of the first SDXL release."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def renamed(name: str, names: dict[str, str]) -> str:
    """The name with the part before its last dot replaced."""
    stem, ending = name.rsplit(".", 1)
    return f"{names.get(stem, stem)}.{ending}"


def unet_name(name: str, layers: int) -> str:
    parts = name.split(".")
    if parts[0] == "mid_block":
        place = 2 * int(parts[2]) if parts[1] == "resnets" else 1
        return f"middle_block.{place}.{renamed('.'.join(parts[3:]), RESNET)}"
    if parts[0] not in ("down_blocks", "up_blocks"):
        return renamed(name, UNET)
    block, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
    down = parts[0] == "down_blocks"
    first = 1 + block * (layers + 1) if down else block * (layers + 1)
    stem = f"{'input' if down else 'output'}_blocks"
    if kind == "resnets":
        return f"{stem}.{first + layer}.0.{renamed(rest, RESNET)}"
    if kind == "attentions":
        return f"{stem}.{first + layer}.1.{rest}"
    if kind == "downsamplers":
        return f"{stem}.{first + layers}.0.op.{parts[-1]}"
    return f"{stem}.{first + layers}.1.conv.{parts[-1]}"  # tests' only upsampler follows no attention


def vae_name(name: str, blocks: int) -> str:
    parts = name.split(".")
    if "mid_block" in parts:
        side, rest = parts[0], ".".join(parts[4:])
        if parts[2] == "attentions":
            return f"{side}.mid.attn_1.{renamed(rest, VAE_ATTENTION)}"
        return f"{side}.mid.block_{int(parts[3]) + 1}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        place = int(parts[2]) if parts[1] == "down_blocks" else blocks - 1 - int(parts[2])
        way, rest = parts[1].removesuffix("_blocks"), ".".join(parts[5:])
        if parts[3] == "resnets":
            return f"{parts[0]}.{way}.{place}.block.{parts[4]}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{parts[0]}.{way}.{place}.{way}sample.{rest}"
    return name.replace("conv_norm_out", "norm_out")


def open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
    }
    for ending in ("weight", "bias"):
        found[f"ln_final.{ending}"] = state[f"text_model.final_layer_norm.{ending}"]
    layers = [name.removeprefix("text_model.encoder.layers.") for name in state if ".layers." in name]
    for name in layers:
        place, rest = name.split(".", 1)
        value = state[f"text_model.encoder.layers.{name}"]
        if "_proj" not in rest or "out_proj" in rest:
            found[f"transformer.resblocks.{place}.{renamed(rest, OPEN_CLIP)}"] = value
        elif "q_proj" in rest:
            kind = rest.rsplit(".", 1)[1]
            whole = [state[f"text_model.encoder.layers.{name.replace('q_proj', one)}"] for one in JOINED]
            found[f"transformer.resblocks.{place}.attn.in_proj_{kind}"] = torch.cat(whole)
    return found


JOINED = ("q_proj", "k_proj", "v_proj")


def save_single_file(pipeline: Any, file: Path) -> str:
    unet, vae = pipeline.unet, pipeline.vae
    state = {
        f"model.diffusion_model.{unet_name(name, unet.config.layers_per_block)}": value
        for name, value in unet.state_dict().items()
    }
    for name, value in vae.state_dict().items():
        conv = value[..., None, None] if "attentions" in name and value.ndim == 2 else value
        state[f"first_stage_model.{vae_name(name, len(vae.config.block_out_channels))}"] = conv
    first = {f"transformer.text_model.{name}": value for name, value in pipeline.text_encoder.state_dict().items()}
    if unet.config.addition_embed_type:
        state |= {f"conditioner.embedders.0.{name}": value for name, value in first.items()}
        second = open_clip(pipeline.text_encoder_2.state_dict())
        state |= {f"conditioner.embedders.1.model.{name}": value for name, value in second.items()}
    else:
        state |= {f"cond_stage_model.{name}": value for name, value in first.items()}
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    return str(file)
