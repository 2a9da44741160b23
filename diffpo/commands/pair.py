"""Make pairs of answers that a judge has compared: the third stage of a round, alone.

diffpo pair --pairing diffpo.rounds.BestWorst --folder answers
"""

from pathlib import Path

from diffpo.rounds.contents import is_kept
from diffpo.rounds.roles import Pairing
from diffpo.rounds.stages import describe_round, pair_candidates
from diffpo.rounds.tables import PAIRS, read_candidates
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
        verb = "train" if is_kept(read_candidates(folder)[0].contents[0][0]) else "train-text"
        print(
            f"{found}. To train on them: diffpo {verb} --data.source diffpo.rounds.RoundPairs "
            f"--data.source.path {folder / PAIRS}"
        )
