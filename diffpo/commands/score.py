"""Score both pictures of every pair of a dataset, or all answers of a dataset of texts.

accelerate launch scripts/score_pairs.py --config configs/annotate/score.yaml --output_dir scored
"""

from functools import partial
from pathlib import Path
from typing import Any

from diffpo.data.row_maps import SUMMARY
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.job import run_job
from diffpo.diffusion.annotate.score import score_pairs
from diffpo.evaluation.scorer import Scorer, TextScorer
from diffpo.text.evaluation.scoring import RESULT, score_texts


def main(
    scorer: Scorer,
    source: Source,
    output_dir: Path,
    rows: list[RowMap] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    settings: str = "",
) -> None:
    """Score both pictures of every pair of a dataset, or all answers of a dataset of texts.

    Args:
        scorer: who scores, e.g. diffpo.scorers.PickScore of pictures or diffpo.text.PretrainedReward of texts.
        source: the pairs, e.g. diffpo.data.PickAPic or diffpo.data.Mixed; of texts also diffpo.text.Lists.
        output_dir: gets parquet that diffpo.data.Columns reads, or diffpo.text.Lists what were lists, and scores.json.
            After a kill, the same command goes on where it stopped.
        rows: what drops pairs before they are scored; null keeps all.
        seed: of the row maps.
        batch_size: pictures or answers that are read at a time; a scorer may divide them further.
        settings: the resolved config.
    """
    if isinstance(scorer, TextScorer):
        work, describe = partial(score_texts, scorer), describe_ratings
    else:
        work, describe = partial(score_pairs, scorer), describe_scores
    run_job(
        lambda: work(source, output_dir, rows or [], seed, batch_size),
        summary=output_dir / SUMMARY,
        settings=settings,
        done="scored",
        describe=describe,
        repeats=False,
    )


def describe_scores(found: dict[str, Any], output_dir: Path) -> str:
    """The summary in a sentence."""
    agreement = found["agreement"]
    confirmed = "no pair has a winner" if agreement is None else f"the chosen side scores higher in {agreement:.1%}"
    noted = "".join(f"; {count} pairs {note}" for note, count in found["notes"].items())
    longer = f"; {found['cut']} of {found['prompts']} prompts are longer than it reads and were cut"
    cut = longer if found["cut"] else ""
    return (
        f"{found['pairs']} pairs scored by {found['scorer']} ({found['model_id']}) from {found['min']:.4g} to "
        f"{found['max']:.4g}; {confirmed}; {found['unreadable']} pictures could not be read{cut}{noted}. To train on "
        f"them: --data.source=diffpo.data.Columns --data.source.path={output_dir}"
    )


def describe_ratings(found: dict[str, Any], output_dir: Path) -> str:
    """The summary of scored texts in sentences."""
    agreement = found["agreement"]
    confirmed = "" if agreement is None else f"; the chosen side scores higher in {agreement:.1%}"
    longer = f"; {found['cut']} are, with their prompts, longer than it reads and were cut" if found["cut"] else ""
    reader = f"diffpo.{'text.Lists' if found['lists'] else 'data.Columns'} --data.source.path={output_dir / RESULT}"
    scale = f" --data.source.low={found['min']:g} --data.source.high={found['max']:g}" if found["lists"] else ""
    return (
        f"{found['answers']} answers scored by {found['scorer']} ({found['model_id']}) from {found['min']:.4g} to "
        f"{found['max']:.4g}{confirmed}; {found['unrated']} could not be rated{longer}. {found['kept']} To train on "
        f"them: --data.source={reader}{scale}"
    )
