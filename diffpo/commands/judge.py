"""Have a judge compare answers: the second stage of a round, alone.

diffpo judge --judge diffpo.rounds.FromScorer --judge.scorer diffpo.lab.RewriteOracle --folder answers
"""

from pathlib import Path

from diffpo.rounds.roles import Judge, Pairing
from diffpo.rounds.stages import judge_candidates
from diffpo.rounds.tables import WINS, read_table
from diffpo.storage.job_folder import meet_processes


def main(judge: Judge, folder: Path, pairing: Pairing | None = None, settings: str = "") -> None:
    """Have a judge compare answers: the second stage of a round, alone.

    Args:
        judge: e.g. diffpo.rounds.FromScorer, or diffpo.rounds.BothOrders around diffpo.rounds.Asked.
        folder: with candidates.parquet; gets wins.parquet. After a kill, the same command goes on where it stopped.
        pairing: asks only what this one needs; null asks about each two answers of a prompt.
        settings: the resolved config.
    """
    state = meet_processes()
    judge_candidates(folder, judge, pairing)
    if state.is_main_process:
        noted = read_table(folder / WINS)[1]["noted"]
        print(f"{folder / WINS} holds what the judge said: {', '.join(f'{n} {what}' for what, n in noted.items())}.")
