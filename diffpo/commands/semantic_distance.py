"""Add to pairs of texts how far each answer has drifted from its prompt, for Sem-DPO (arXiv:2507.20133).

python scripts/measure_texts.py semantic-distance --encoder diffpo.text.CLIPText --source diffpo.data.Columns \
    --source.path pairs.parquet --output_dir pairs-with-distances
"""

from pathlib import Path

import transformers

from diffpo.data.layouts import Columns
from diffpo.text.evaluation.semantic import COLUMNS, TextEncoder, add_distances


def main(encoder: TextEncoder, source: Columns, output_dir: Path, batch_size: int = 64, settings: str = "") -> None:
    """Add to pairs of texts how far each answer has drifted from its prompt.

    Args:
        encoder: diffpo.text.CLIPText, or SentenceEncoder for texts of more than 77 tokens.
        source: the pairs.
        output_dir: gets train.parquet, with all columns and two more, and semantic.json; does not exist or is empty.
        batch_size: texts that are encoded at a time.
        settings: the resolved config.
    """
    transformers.utils.logging.disable_progress_bar()
    about = add_distances(encoder, source, output_dir, batch_size)
    means = []
    for name in COLUMNS:
        found = about[name]
        means.append(f"{name} {found['mean']:.3f} [{found['min']:.3f}, {found['max']:.3f}]")
    print(
        f"{about['pairs']} pairs by {about['model_id']}: {', '.join(means)}; {about['cut']} answers were longer than "
        f"it reads. To train on them: --data.source.path={output_dir}/train.parquet "
        "--data.rows+=diffpo.text.methods.SemanticWeight"
    )
