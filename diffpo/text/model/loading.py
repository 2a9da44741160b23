"""A causal language model: from a hub id or folder to the network that is trained, and back to files."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedConfig

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy, Reference, SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded, whole_state
from diffpo.storage.digests import forget_exported, name_exported, require_exported
from diffpo.storage.files import name_failed_writes
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.storage.whole import load_whole
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.tokenizing import Tokenizing
from diffpo.text.model.likelihoods import require_plain_head
from diffpo.text.model.lora import TextAdapter
from diffpo.train.adapters import carries_adapters

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Quantization:
    """Frozen weights in few bits, by bitsandbytes, under a LoRA (QLoRA, arXiv:2305.14314).

    Args:
        bits: 4 (normal floats, whose scales are quantized too) or 8.
    """

    bits: Literal[4, 8] = 4

    def config(self, compute: torch.dtype) -> BitsAndBytesConfig:
        """As transformers takes it.

        Args:
            compute: type that 4-bit weights are multiplied in.

        Raises:
            Refusal: without bitsandbytes.
        """
        if find_spec("bitsandbytes") is None:
            raise Refusal(
                "base.quantization needs bitsandbytes, which is not installed; pip install 'diffpo[8bit]', or set it "
                "to null."
            )
        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )


@dataclass(frozen=True)
class CausalLM:
    """Which language model to tune, and how.

    Dropout of the base is switched off: log-likelihoods of policy and reference have to be comparable.

    Args:
        path: hub id or folder of a causal language model with its tokenizer.
        adapter: null tunes all weights; diffpo.text.TextLoRA or TextWarmLoRA tune adapters inside it.
        quantization: of the frozen weights under an adapter, e.g. {bits: 4}; null is none.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        attention: kernel, by transformers' name; `flash_attention_2` needs that package.
        chat_template: a Jinja template instead of the tokenizer's own.
        revision: of a hub id.

    Raises:
        Refusal: if quantized weights would be trained.
    """

    path: str
    adapter: TextAdapter | None = None
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    chat_template: str | None = None
    revision: str | None = None

    network_class: ClassVar[Any] = AutoModelForCausalLM
    reader_class: ClassVar[Any] = AutoTokenizer
    reads_by: ClassVar[str] = "tokenizer"
    kind: ClassVar[str] = "a causal language model"
    task: ClassVar[str] = "text-generation"

    def __post_init__(self):
        if self.quantization is not None and self.adapter is None:
            raise Refusal(
                "Quantized weights cannot be trained; set base.adapter, e.g. to diffpo.text.TextLoRA, or "
                "base.quantization to null."
            )

    def tokenizing(self) -> Tokenizing:
        """The tokenizer with its chat template; it costs little, so data can be checked before weights are loaded.

        Raises:
            Refusal: if it cannot be found, or tells no texts apart.
        """
        require_exported(Path(self.path))
        with name_failed_loads(self.path, "a tokenizer"):
            tokenizer: Any = AutoTokenizer.from_pretrained(self.path, revision=self.revision, **SAFE)
        if self.chat_template is not None:
            tokenizer.chat_template = self.chat_template
        return Tokenizing(tokenizer, known=self.vocabulary)

    @property
    def vocabulary(self) -> int:
        """Tokens that the network knows."""
        return self.network_config().get_text_config().vocab_size

    def network_config(self) -> Any:
        """Of the network, as transformers reads it."""
        folder = Path(self.path)
        require_exported(folder)
        if (folder / ADAPTER).exists() and not (folder / "config.json").exists():
            raise Refusal(
                f"{folder} holds an adapter, not {self.kind}; name its base in base.path and the adapter in "
                "base.adapter diffpo.text.TextWarmLoRA, or merge them (peft's merge_and_unload)."
            )
        with name_failed_loads(self.path, self.kind):
            return AutoConfig.from_pretrained(self.path, revision=self.revision, **SAFE)

    def load(
        self, device: torch.device | str = "cpu", storage: torch.dtype = torch.float32, seed: int = 0
    ) -> "LoadedCausalLM":
        """Load the network onto a device, ready to train.

        Args:
            storage: type in which frozen weights are kept; give the type of mixed precision. Trained weights are fp32.
            seed: of adapters that start at random.

        Raises:
            Refusal: if it cannot be found, is no causal language model, lacks weights or has others, carries adapters,
                or does something to its logits.
        """
        network = self.network(device, torch.float32 if self.adapter is None else storage)
        require_plain_head(network, device)
        exported = set(network.state_dict())
        network.requires_grad_(self.adapter is None).train()
        if self.adapter is not None:
            self.adapter.attach(network, seed)
        if self.gradient_checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        return LoadedCausalLM(self, network, self.tokenizing(), storage, exported)

    def network(self, device: torch.device | str, dtype: torch.dtype) -> Any:
        """The bare network, without dropout."""
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": self.attention, "revision": self.revision}
        if self.quantization is not None:
            options |= {"quantization_config": self.quantization.config(dtype), "device_map": {"": device}}
        config = self.network_config()
        switch_off_dropout(config)
        load = partial(self.network_class.from_pretrained, self.path, config=config, **SAFE, **options)
        network = load_whole(load, self.path, self.kind)
        if carries_adapters(network):
            raise Refusal(
                f"{self.path} holds an adapter ({ADAPTER}) beside {self.kind}, and transformers puts it in; move it "
                "elsewhere, or merge it (peft's merge_and_unload)."
            )
        return network if self.quantization is not None else network.to(device)


def switch_off_dropout(config: PreTrainedConfig) -> None:
    """In a network's config and in those of its parts, e.g. a picture tower."""
    config.update({name: 0.0 for name, x in config.to_dict().items() if "drop" in name and isinstance(x, float)})
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            switch_off_dropout(part)


class LoadedCausalLM:
    """The parts of a loaded base.

    Attributes:
        network: what is trained.
        tokenizing: how texts become tokens; `tokenizing.tokenizer` is transformers'.

    Args:
        exported: names of the weights that the base has; what an objective attaches is not among them.
    """

    def __init__(
        self, config: CausalLM, network: Any, tokenizing: Tokenizing, storage: torch.dtype, exported: set[str]
    ):
        self.config, self.network, self.tokenizing = config, network, tokenizing
        self.storage, self.exported = storage, exported

    @property
    def context(self) -> int | None:
        """Tokens that the network can read; None if its config sets no limit."""
        return self.network.config.get_text_config().to_dict().get("max_position_embeddings")

    def reference(self) -> Reference:
        """The base as it is now: its adapters switched off, or a frozen copy if all of it is trained."""
        if self.config.adapter is not None:
            return SwitchedOff(self.network, self.config.adapter.off)
        return FrozenCopy(self.network, None if self.storage == torch.float32 else self.storage)

    def prepare(self, model: nn.Module, raw: TokenBatch, draws: Draws) -> tuple[nn.Module, TokenBatch]:
        """What `fit` calls: the network as wrapped, and the batch on its device."""
        return model, raw.to(draws.device)

    def require_fits(self, batch: TokenBatch, longest: int) -> None:
        """What is checked before a run.

        Args:
            batch: the first rows.
            longest: tokens that a sequence may have (`TextData.max_length`).

        Raises:
            Refusal: if sequences may be longer than the network's context.
        """
        if self.context is not None and longest > self.context:
            raise Refusal(
                f"data.max_length {longest} is more than the {self.context} that {self.config.path} can read; lower "
                "it."
            )

    def report(self) -> str:
        if self.tokenizing.tokenizer.pad_token_id is not None:
            return ""
        return "The tokenizer has no token for padding; that of the end of a sequence was used, masked."

    def save(self, folder: Path, writes: bool = True) -> None:
        """Write what was trained, with the tokenizer, as transformers and peft load it; at last the digests.

        Args:
            writes: False on all processes but one. Each has to call this, because weights may be sharded over them.

        Raises:
            Refusal: if the disk is full.
        """
        then = "if there is a checkpoint of the last step, --resume latest then writes them"
        with name_failed_writes(f"The weights in {folder}", then):
            if writes:
                folder.mkdir(parents=True, exist_ok=True)
                forget_exported(folder)
                readers = self.save_readers(folder)
            if self.config.adapter is not None:
                self.config.adapter.save(self, folder, writes)
            else:
                state = whole_state(self.network) if is_sharded(self.network) else self.network.state_dict()
                if writes:
                    own = {name: tensor for name, tensor in state.items() if name in self.exported}
                    self.network.save_pretrained(folder, state_dict=own)
            if writes:
                name_exported(folder, readers)

    def save_readers(self, folder: Path) -> list[str]:
        """Write what reads texts, and what else the network is given; the names of the files."""
        return names_in(folder, self.tokenizing.tokenizer.save_pretrained(folder))


def names_in(folder: Path, saved: Iterable[str | Path]) -> list[str]:
    """Of files that a library says it has written below a folder."""
    return [os.path.relpath(file, folder) for file in saved]


def load_base(config: CausalLM) -> LoadedCausalLM:
    """The bare base in fp32, to generate with."""
    loaded = replace(config, adapter=None, quantization=None, gradient_checkpointing=False).load()
    loaded.network.requires_grad_(False).eval()
    return loaded


def load_tuned(config: CausalLM, folder: Path) -> LoadedCausalLM:
    """The base with what `save` wrote to a folder, loaded as any user would."""
    if config.adapter is None:
        return load_base(replace(config, path=str(folder), revision=None))
    loaded = load_base(config)
    config.adapter.load(loaded, folder)
    loaded.network.eval()
    return loaded
