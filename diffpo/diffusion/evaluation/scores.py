"""Several scorers over the finished pictures of a model; what was scored stays scored."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.diffusion.annotate.read_ahead import Question, Scores, score_batches
from diffpo.evaluation.scorer import Scorer
from diffpo.evaluation.win_rates import Numbers
from diffpo.processes.stopping import end_in_order
from diffpo.storage.digests import THREADS, digest_of
from diffpo.storage.files import require_name
from diffpo.storage.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelPictures:
    """One model's finished pictures, prompt by prompt, and what they are of."""

    files: list[Path]
    folder: Path
    identity: Mapping[str, Any]

    @cached_property
    def digests(self) -> list[str]:
        """Of each picture as it is now; empty if there is none."""
        with ThreadPoolExecutor(THREADS, "digests") as pool:
            return list(pool.map(lambda file: digest_of(file)["sha256"] if file.is_file() else "", self.files))


@dataclass(frozen=True)
class Judges:
    """Scorers, and where what they say is kept.

    Raises:
        Refusal: if there are none, two of one name, or one whose name cannot be that of a folder.
    """

    scorers: Sequence[Scorer]

    def __post_init__(self):
        for scorer in self.scorers:
            require_name(scorer.name, "a scorer")
        names = Counter(scorer.name for scorer in self.scorers)
        if not names:
            raise Refusal("An evaluation needs at least one scorer.")
        if doubled := [name for name, count in names.items() if count > 1]:
            said = " and ".join(str(s.identity) for s in self.scorers if s.name == doubled[0])
            raise Refusal(
                f"Two scorers are called {doubled[0]!r} ({said}); their numbers do not compare: run them apart."
            )

    @property
    def names(self) -> list[str]:
        return [scorer.name for scorer in self.scorers]

    def numbers(self, pictures: ModelPictures, prompts: Sequence[str], title: str) -> Numbers:
        """Of each scorer, and each aspect: (prompts, pictures), NaN where a picture cannot be read.

        All processes share the work; what a former call found is not scored again.
        """
        per_prompt = len(pictures.files) // len(prompts)
        asked = [prompt for prompt in prompts for _ in range(per_prompt)]
        found: list[Scores] = [{} for _ in asked]
        for scorer in self.scorers:
            for n, scores in score_pictures(scorer, pictures, asked, f"{title}: {scorer.name}").items():
                found[n] |= scores
        names = {name: None for scores in found for name in scores}
        columns = {name: [np.nan if (x := scores.get(name)) is None else x for scores in found] for name in names}
        return {
            name: np.array(values, dtype=float).reshape(len(prompts), per_prompt) for name, values in columns.items()
        }


def score_pictures(scorer: Scorer, pictures: ModelPictures, asked: Sequence[str], title: str) -> dict[int, Scores]:
    """What one scorer says of every picture, by number."""
    state = PartialState()
    folder, identity = (
        pictures.folder / "scores" / scorer.name,
        {**scorer.identity, "pictures": dict(pictures.identity)},
    )
    ledger = Ledger(folder, identity, state.process_index)
    state.wait_for_everyone()  # all of them have to see the same pictures missing
    done = read_current(ledger, pictures)
    missing = [number for number in range(len(asked)) if number not in done]
    if state.is_main_process and (others := len(ledger.done) - len(done)):
        log.warning(f"{others} pictures of {title} are others than were scored; they are scored anew.")
    questions = [
        Question(number, asked[number], partial(read_image, str(pictures.files[number])))
        for number in missing[state.process_index :: state.num_processes]
    ]
    quiet = not (questions and state.is_main_process)
    with end_in_order() as stop, tqdm(total=len(questions), desc=title, disable=quiet, leave=False) as bar:
        for batch in score_batches([scorer], questions):
            ledger.add({question.row: [pictures.digests[question.row], scores] for question, scores in batch})
            bar.update(len(batch))
            stop.here()
    state.wait_for_everyone()
    return read_current(Ledger(folder, identity, state.process_index), pictures)


def read_current(ledger: Ledger, pictures: ModelPictures) -> dict[int, Scores]:
    """What was said of pictures that are still the same."""
    return {n: scores for n, (digest, scores) in ledger.done.items() if digest == pictures.digests[n]}
