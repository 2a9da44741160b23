"""Say how often a tuned language model ranks pairs right, its reference, and an exact minimizer of DPO.

python scripts/measure_texts.py ranking-accuracy --base.path assets/tiny-lm --tuned runs/text --data.source
diffpo.data.Columns \
    --data.source.path assets/tiny-rewrites/train.parquet --data.max_length 64 --output accuracies.json
"""

import json
import math
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState
from jsonargparse import set_parsing_settings

from diffpo.text.data.pairs import TextData
from diffpo.text.evaluation.ranking_accuracy import accuracies, of_pairs
from diffpo.text.model.loading import CausalLM, load_base, load_tuned

set_parsing_settings(subclasses_enabled=[CausalLM])  # a base may be of another kind, e.g. VisionLM


def main(
    base: CausalLM,
    tuned: Path,
    data: TextData,
    betas: tuple[float, ...] = (0.01, 0.1, 1.0, 5.0, 10.0),
    count: int = 1000,
    batch_size: int = 16,
    output: Path | None = None,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Say how often a tuned language model ranks pairs right.

    Args:
        base: the reference, as in training.
        tuned: folder that training wrote.
        data: pairs, best ones that were not trained on; the share of annotators is their `prob`.
        betas: for which the exact minimizer is told.
        count: pairs, the first ones.
        batch_size: pairs that are read at a time.
        output: JSON file of the numbers, null where there is none to tell; null writes none.
        seed: of the row maps.
        settings: the resolved config.
    """
    transformers.utils.logging.disable_progress_bar()
    device: Any = PartialState().device
    pairs = data.open(seed, base.tokenizing())
    pair, prob = of_pairs(load_tuned(base, tuned), load_base(base), pairs, count, batch_size, device)
    found = accuracies(pair, prob, betas)
    for name, value in found.items():
        print(f"{name:<36}{value:8.1%}")
    if output:
        numbers = {name: None if math.isnan(value) else value for name, value in found.items()}
        output.write_text(json.dumps({"pairs": prob.numel(), **numbers}, indent=2) + "\n")
