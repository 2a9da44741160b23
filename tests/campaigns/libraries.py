"""What the programs import, so that each is forked from a process that has it."""

import encode_pairs  # noqa: F401
import evaluate  # noqa: F401
import score_pairs  # noqa: F401
import tiny_runs  # noqa: F401
import train_diffusion_dpo  # noqa: F401
import train_text_dpo  # noqa: F401
from campaigns import programs  # noqa: F401
