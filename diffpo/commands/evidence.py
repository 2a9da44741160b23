"""Run a grid of methods and seeds on the tiny world and tabulate what the oracle says, base and SFT beside them.

python scripts/evidence.py --grid configs/evidence/peers.yaml --output_dir runs/evidence --readme docs/results.md
"""

from pathlib import Path

from diffpo.lab.evidence.runner import programs, tabulate


def main(
    grid: Path,
    output_dir: Path,
    jobs: int = 2,
    readme: Path | None = None,
    record: Path | None = Path("assets/evidence"),
    settings: str = "",
) -> None:
    """Run a grid of methods and seeds, and tabulate.

    Before any run, the resolved config of each method is compared with that of a run without overrides of its own: a
    method may differ only in what it names, and what makes it is printed. The record keeps both.

    Args:
        grid: YAML with the fields of diffpo.lab.evidence.grid.Grid, of which `config`, `methods` (name: list of
            overrides), `seeds` and `baseline` (the method that is SFT) have to be there. With `rival` (another method)
            all are compared with that, too. With `score` (a config of scripts/score_pairs.py) all runs read pairs that
            are scored once, and `{scores}` in an override is the folder of their scores.json; with `encode` (a config
            of scripts/encode_pairs.py) all runs read pairs that are encoded once, from the scored ones if there are
            any; with `prepare` (a list of command lines of our scripts) these run first. There and in overrides,
            `{output}` is `output_dir`. With `tune` (`seed`, `also`: further overrides of these runs, by which
            development prompts judge them, and `values`: method: argument: list of values) each value of that argument
            (of two: each with each) is tried with that seed first, and all seeds of the method take the one with the
            best utility. With `cost`, evaluations of the network for a pair are counted in one step. With
            `compare` (`config`, one of scripts/evaluate.py, and `models`: name: fields of
            diffpo.diffusion.ComparedModel, the first one being the base) these are evaluated after the runs, and a
            second table tells of them; where a field names `{seed}`, there is one model for each seed. With `users`
            (`config`, one of scripts/evaluate_users.py, and `groups`: name: `models` as above, of
            diffpo.diffusion.UserModel, and `overrides`), users judge the runs of each seed instead of the oracle, and
            there is a table for each group. `script` is what runs, train_diffusion_dpo.py where nothing is said;
            `also`, overrides of every run, stands for what that script's runs get otherwise; and `aspects` maps
            numbers of a model in a report to formats of the table's columns, utility being the oracle's mean. `others`
            (method: `script` and `config`) are rows that another script runs, as offline training beside rounds;
            `tune.follow` (method: another one) lets a method take over what that was tuned to; `by_round` lists
            numbers that are told of the base and after each round; `win_rates: false` leaves win rates out.
        output_dir: gets one folder per run; runs that are finished are not repeated, others are taken up again.
        jobs: processes at a time, one thread each.
        readme: the table replaces what stands between two lines `<!-- evidence: <name of the grid> -->` in it.
        record: folder that gets the table's numbers as `<name of the grid>.json`, and those of each finished run as
            `<name of the grid>/<method>-<seed>.json`: its config, digests of the files that it read, and what the
            table needs. A run that is recorded needs no folder any more; a record of other settings or files is
            refused. Null writes none.
        settings: the resolved config.
    """
    with programs.heard():
        tabulate(grid, output_dir, jobs, readme, record)
