"""How LoRA files name the layers of a network: diffusers', peft's, kohya's, and the original UNet's names.

Kohya's trainer (github.com/kohya-ss/sd-scripts, networks/lora.py) writes `_` for `.` and takes SDXL's layers from the
UNet of the first release (github.com/Stability-AI/generative-models), which counts blocks in another way.
"""

import re
from collections import Counter
from collections.abc import Iterable

from diffpo.storage.whole import unwrap_name

# Of the networks in a pipeline, before the name of the layer.
PARTS = {
    "unet": ("unet.", "lora_unet_", "diffusion_model."),
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_"),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
    "transformer": ("transformer.", "lora_transformer_"),
}
# After it. Old files of diffusers call the layer to_q of an attention `processor.to_q_lora`.
ROLES = re.compile(
    r"(?:(?P<down>\.lora_A(?:\.default)?\.weight|\.lora_down\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight)"
    r"|(?P<up>\.lora_B(?:\.default)?\.weight|\.lora_up\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight)"
    r"|(?P<magnitude>\.lora_magnitude_vector(?:\.default)?(?:\.weight)?|\.dora_scale)"
    r"|(?P<alpha>\.alpha))$"
)
# What other kinds of adapters have.
KINDS = {
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "OFT": r"\.b?oft_",
    "Tucker decompositions": r"\.lora_mid\.",
    "full differences": r"\.diff(_b)?$",
    "trained norms": r"\.[wb]_norm$",
    "embeddings of new tokens": r"^bundle_emb",
    "embeddings": r"\.lora_embedding_",
    "biases": r"\.lora_[AB](\.\w+)?\.bias$",
    "weights of the base": r"\.base_layer\.",
}
PEFT = ("base_model.model.", "base_model_model_")

TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks)[._]\d")


def split_key(key: str, main: str) -> tuple[str, str, str | None]:
    """The network that a weight of a LoRA belongs to, its layer as the file names it, and the weight's role.

    Args:
        main: the network, if the file does not say it.

    Returns:
        The role is down, up, magnitude or alpha; None if the weight is none of a LoRA.
    """
    name, part = strip_name(key), main
    for other, prefixes in PARTS.items():
        if prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), None):
            name, part = strip_name(name.removeprefix(prefix)), other
            break
    match = ROLES.search(name)
    if match is None:
        return part, name, None
    layer = name[: match.start()]
    if ".processor." in layer:
        layer = layer.replace(".processor.", ".")
        layer = f"{layer}.0" if layer.endswith(".to_out") else layer
    return part, layer, match.lastgroup


def strip_name(name: str) -> str:
    """A name without what peft, torch.compile, DDP or a trainer put before it."""
    before = None
    while name != before:
        before = name
        name = unwrap_name(name).replace("_orig_mod_", "")
        for prefix in (*PEFT, "module_", "policy_"):
            name = name.removeprefix(prefix)
    return name


def is_wrapped(key: str) -> bool:
    """Whether a name has more before it than peft's own prefix."""
    return any(mark in key for mark in ("_orig_mod", "module.", "policy.", "state_dict.", "module_", "policy_"))


def guess_kind(key: str) -> str | None:
    """What a weight is that no LoRA has, as far as its name tells."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, key)), None)


def layer_names(names: Iterable[str]) -> dict[str, str]:
    """A network's own names of its layers by every name that files have for them.

    Args:
        names: of the layers of a UNet, a transformer or a text encoder.
    """
    names = list(names)
    known = {alias: name for name, original in original_names(names).items() for alias in (name, original)}
    for name in names:
        # CLIP's text encoder has lost the outer one of its names; old files of diffusers have others for attention.
        short = name.removeprefix("text_model.")
        for alias in (short, f"text_model.{short}", re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", short)):
            known.setdefault(alias, name)
            known.setdefault(f"text_model.{alias}", name)
        known.setdefault(name.removesuffix(".0"), name)  # to_out
        known[name] = name
    return {alias.replace(".", "_"): name for alias, name in known.items()} | known


def original_names(names: Iterable[str]) -> dict[str, str]:
    """What the original UNet calls the layers of diffusers' one; layers that it does not have are left out."""
    names = list(names)
    blocks = {match.groups() for name in names if (match := BLOCK.fullmatch(name))}
    resnets = Counter((way, int(block)) for way, block, _, _, rest in blocks if rest == "conv1")
    attends = {(way, int(block)) for way, block, kind, _, _ in blocks if kind == "attentions"}
    found = {}
    for name in names:
        if name in TOP:
            found[name] = TOP[name]
        elif match := MIDDLE.fullmatch(name):
            kind, place, rest = match.groups()
            found[name] = f"middle_block.{2 * int(place) if kind == 'resnets' else 1}.{RESNET.get(rest, rest)}"
        elif match := BLOCK.fullmatch(name):
            way, block, kind, place, rest = match.group(1), int(match.group(2)), *match.groups()[2:]
            # Down blocks come after conv_in, and each has its downsampler for itself.
            own = 1 if way == "down" else 0
            first = own + sum(resnets[way, before] + own for before in range(block))
            stem, last = ("input_blocks" if own else "output_blocks"), first + resnets[way, block]
            found[name] = {
                "resnets": f"{stem}.{first + int(place)}.0.{RESNET.get(rest, rest)}",
                "attentions": f"{stem}.{first + int(place)}.1.{rest}",
                "downsamplers": f"{stem}.{last}.0.op",
                "upsamplers": f"{stem}.{last - 1}.{1 + ((way, block) in attends)}.conv",
            }[kind]
    return found
