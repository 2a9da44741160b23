"""Have a judge say, for each of many users, which of two models draws what the user would prefer (PPD).

accelerate launch scripts/judge_users.py --config configs/annotate/judge.yaml --output_dir judged
"""

from pathlib import Path
from typing import Any

from diffpo.annotators.user_judges.roles import UserJudge, format_summaries
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.job import run_job
from diffpo.diffusion.users.judge import REPORT, VERDICTS, judge_users
from diffpo.diffusion.users.panel import Panel

TITLES = {"known": "labeled pairs", "compared": "models"}


def main(
    judge: UserJudge,
    source: Source,
    output_dir: Path,
    models: tuple[Path, Path] | None = None,
    user: str = "user_id",
    shots: int = 4,
    labeled: int = 4,
    most_users: int | None = None,
    rows: list[RowMap] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    settings: str = "",
) -> None:
    """Have a judge say, for each of many users, which of two models draws what the user would prefer (PPD).

    Args:
        judge: who judges: diffpo.annotators.ChatUserJudge, diffpo.annotators.EndpointUserJudge, or on
            the tiny world diffpo.lab.UserOracle.
        source: pairs of the users, e.g. diffpo.data.PickAPic.
        output_dir: gets `report.json` and `verdicts.jsonl`. After a kill, or when an endpoint stopped answering, the
            same command goes on where it stopped.
        models: two folders of pictures, ours first; each has a folder for each user with pictures 00000.png and so on
            and with `prompts.jsonl`. Null only tests the judge.
        user: column with the id of who compared; names of the folders are ids, too.
        shots: pairs of the user that the judge sees.
        labeled: further pairs of each user, at most, on which the judge is tested.
        most_users: at most so many, chosen by a hash; null is all.
        rows: what drops pairs before they are grouped; null keeps all. Ties are never taken.
        seed: of which pairs are shown, of which picture of them stands first, and of the judge's draws.
        batch_size: questions whose pictures are read at a time; a judge may divide them further.
        settings: the resolved config.
    """
    panel = Panel(user, shots, labeled, most_users, seed)
    run_job(
        lambda: judge_users(judge, source, output_dir, panel, models, rows or [], batch_size),
        summary=output_dir / REPORT,
        settings=settings,
        done="judged",
        describe=describe_verdicts,
    )


def describe_verdicts(found: dict[str, Any], output_dir: Path) -> str:
    """The report as a table, and what one has to know to read it."""
    lines = [format_summaries({TITLES[name]: found[name] for name in TITLES if found[name]})]
    known = found["known"]
    if known is None:
        lines.append("warning: the judge was not tested on labeled pairs, so nothing tells whether to believe it.")
    elif known["win_rate_low"] <= 0.5:
        lines.append(
            f"warning: on labeled pairs the judge is right in {known['win_rate']:.1%}, which may be chance; do not "
            "believe what it says of models."
        )
    lines.append(
        "A win is one in both orders, all else that could be judged a tie; a win rate counts ties half. Of labeled "
        "pairs it is the judge's accuracy. Intervals are over users. "
        f"{output_dir / VERDICTS} has every verdict."
    )
    return "\n".join(lines)
