"""DPO on texts by our loop and by TRL's: the same random Llama, texts and optimizer. Needs trl."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.data.layouts import Columns
from diffpo.lab.benchmark.ways.loops import InTurn
from diffpo.lab.benchmark.ways.ours import remembering
from diffpo.losses.logistic import Sigmoid
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.pairs import TextData
from diffpo.text.data.tokenizing import Tokenizing
from diffpo.text.objective.preference import SequencePreference
from diffpo.train.fit import fit
from diffpo.train.run import METRICS, FitConfig, open_run

OURS, THEIRS = "ours", "TRL's DPOTrainer"
BETA, LOG_EVERY, OPTIMIZER = 0.1, 10, partial(AdamW, lr=1e-6, weight_decay=0.0)
Shape = Literal["micro", "tiny", "100M"]
SHAPES: dict[Shape, dict[str, int]] = {
    "micro": {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    "tiny": {"vocab_size": 512, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4},
    "100M": {"vocab_size": 32000, "hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12},
}


@dataclass(frozen=True)
class TextCase:
    """What both train.

    Attributes:
        pairs: in a batch.
        prompt, tokens: of each candidate, the second with its prompt.
        precomputed: the reference's log-likelihoods are known before the first step.
        checkpointing: activations are computed anew in the backward pass, as is TRL's default.
    """

    shape: Shape
    pairs: int
    prompt: int
    tokens: int
    precomputed: bool
    checkpointing: bool

    def network(self, device: torch.device) -> LlamaForCausalLM:
        sizes: dict[str, Any] = SHAPES[self.shape]
        config = LlamaConfig(
            **sizes,
            num_attention_heads=max(2, sizes["hidden_size"] // 64),
            max_position_embeddings=self.tokens,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network: Any = LlamaForCausalLM(config)
            return network.to(device)

    def texts(self, steps: int) -> list[dict[str, str]]:
        """Random words, a token each; both completions are as long as they can be."""
        rng, words = np.random.default_rng(0), SHAPES[self.shape]["vocab_size"] - 4

        def said(n: int) -> str:
            return "".join(f" w{word}" for word in rng.integers(words, size=n))

        n = self.tokens - self.prompt - 1  # and the end of the sequence
        return [
            {"prompt": said(self.prompt), "chosen": said(n), "rejected": said(n)} for _ in range(steps * self.pairs)
        ]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(SHAPES[self.shape]["vocab_size"] - 4))]
        raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )


def ours(case: TextCase, device: torch.device, steps: int, losses: list[float], turn: Callable[[], None]) -> None:
    policy = case.network(device).train()
    if case.checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    config = FitConfig(
        steps=steps,
        batch_size=case.pairs,
        per_device_batch_size=case.pairs,
        schedule="constant",
        mixed_precision="bf16" if device.type == "cuda" else "no",
        log_every=LOG_EVERY,
        save_every=None,
    )

    def prepare(model: nn.Module, raw: TokenBatch, draws: Draws) -> tuple[nn.Module, TokenBatch]:
        return model, raw.to(draws.device)

    with TemporaryDirectory() as name:
        folder, run = Path(name), open_run(config, Path(name) / "run")
        texts = case.texts(steps)
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, texts)))
        # No workers: time of other processes would not be counted.
        data = TextData(Columns(str(folder / "pairs.jsonl")), max_length=case.tokens, workers=0)
        pairs = InTurn(data.open(0, Tokenizing(case.tokenizer())), turn)
        if case.precomputed:
            reference = remembering(None, len(texts), folder / "answers")
        else:
            reference = FrozenCopy(policy, run.storage if device.type == "cuda" else None)
        fit(SequencePreference(Sigmoid(BETA)), policy, reference, pairs, prepare, OPTIMIZER, run)
        losses += [json.loads(line)["loss"] for line in (folder / "run" / METRICS).open()]


class WaitBetweenSteps(TrainerCallback):
    """Waits where TRL's loop stands between two steps."""

    def __init__(self, turn: Callable[[], None]):
        self.turn = turn

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        self.turn()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        self.turn()


def theirs(case: TextCase, device: torch.device, steps: int, losses: list[float], turn: Callable[[], None]) -> None:
    policy = case.network(device)
    with TemporaryDirectory() as folder:
        config = DPOConfig(
            folder,
            max_steps=steps,
            per_device_train_batch_size=case.pairs,
            beta=BETA,
            lr_scheduler_type="constant",
            bf16=device.type == "cuda",
            gradient_checkpointing=case.checkpointing,
            max_length=case.tokens,
            precompute_ref_log_probs=case.precomputed,
            logging_steps=LOG_EVERY,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
        )
        trainer = DPOTrainer(
            policy,
            None if case.precomputed else copy.deepcopy(policy),
            config,
            train_dataset=Dataset.from_list(case.texts(steps)),
            processing_class=case.tokenizer(),
            callbacks=[WaitBetweenSteps(turn)],
            optimizers=(OPTIMIZER(policy.parameters()), None),
        )
        trainer.train()
        losses += [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


WAYS = {THEIRS: theirs, OURS: ours}
