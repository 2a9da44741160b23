"""Make pairs of answers that a judge has compared: the third stage of a round, alone.

diffpo pair --pairing diffpo.rounds.BestWorst --folder answers
"""

from pathlib import Path

from diffpo.rounds.roles import Pairing
from diffpo.rounds.stages import describe_round, pair_candidates
from diffpo.rounds.tables import PAIRS
from diffpo.storage.job_folder import meet_processes


def main(pairing: Pairing, folder: Path, settings: str = "") -> None:
    """Make pairs of answers that a judge has compared: the third stage of a round, alone.

    Args:
        pairing: e.g. diffpo.rounds.BestWorst; it may ask no more than the judge was asked.
        folder: with candidates.parquet and wins.parquet; gets pairs.parquet.
        settings: the resolved config.
    """
    state = meet_processes()
    pair_candidates(folder, pairing)
    if state.is_main_process:
        found = ", ".join(f"{name} {value:.4g}" for name, value in describe_round(folder).items())
        print(
            f"{found}. To train on them: diffpo train-text --data.source diffpo.rounds.RoundPairs "
            f"--data.source.path {folder / PAIRS}"
        )
