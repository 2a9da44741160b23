"""Small language models and batches of tokens for tests of the text track."""

import string
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffpo.core.pair import PairLabels
from diffpo.text.data.batches import TokenBatch

VOCABULARY = 48
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MERGES = [("t", "h"), ("th", "e"), (" ", "the"), ("x", "y")]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}<a>{{ m['content'] }}{{ eos_token }}"
    "{% else %}<u>{{ m['content'] }}{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def language_model(seed: int = 0, vocabulary: int = VOCABULARY, width: int = 16, layers: int = 2) -> LlamaForCausalLM:
    """Random weights; all widths and heads are as small as the architecture allows."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).train()


def token_batch(k: int = 2, b: int = 3, s: int = 9, prompt: int = 3, seed: int = 0) -> TokenBatch:
    """Random tokens; completions begin after `prompt` tokens, and each is one token shorter than the one before."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (k, b, s), generator=rng)
    ids[..., :prompt] = ids[:1, :, :prompt]
    lengths = s - torch.arange(k * b).reshape(k, b) % (s - prompt - 1)
    attended = torch.arange(s) < lengths[..., None]
    scored = attended & (torch.arange(s) >= prompt)
    label = PairLabels(prob=torch.ones(b), score=torch.zeros(k, b), weight=torch.ones(b))
    row = tuple(range(b))
    return TokenBatch(ids * attended, attended, scored, scored.long(), label, row, (0,) * b)


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter, " the" and "xy"; sequences begin with <s>. Chats look like <u>hi\n<a>yes</s>."""
    known = [*SPECIAL.values(), "<u>", "<a>", *string.ascii_lowercase, *" .:,\n012"]
    words = {word: number for number, word in enumerate([*known, *("".join(merge) for merge in MERGES)])}
    assert len(words) <= VOCABULARY
    fast = Tokenizer(models.BPE(words, MERGES, unk_token=SPECIAL["unk_token"]))
    fast.add_special_tokens(["<u>", "<a>"])
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", words["<s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=fast, chat_template=TEMPLATE, **SPECIAL)


def saved_language_model(folder: Path, seed: int = 0) -> str:
    """`language_model` and `tokenizer` as a folder that transformers loads."""
    language_model(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def saved_pairs(file: Path, n: int = 12) -> str:
    """Prompts of a few words, whose chosen answers say yes and whose rejected ones say no, as a parquet file."""
    rows = [
        {"prompt": f"is {chr(97 + i)} the {'one ' * (i % 4)}", "chosen": "yes" + i % 3 * " yes", "rejected": "no"}
        for i in range(n)
    ]
    Dataset.from_list(rows).to_parquet(str(file))
    return str(file)
