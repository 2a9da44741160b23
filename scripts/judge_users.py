"""Have a judge say, for each of many users, which of two models draws what the user would prefer (PPD).

accelerate launch scripts/judge_users.py --config configs/annotate/judge.yaml --output_dir judged
"""

from diffpo.cli.command import launch
from diffpo.commands.judge_users import main

if __name__ == "__main__":
    launch(main)
