"""Small language models and batches of tokens for tests of the text track."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from diffpo.core import PairLabels
from diffpo.text.sequences import TokenBatch

VOCABULARY = 48


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
