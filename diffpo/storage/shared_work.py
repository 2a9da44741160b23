"""Hours of work on numbered things, shared out among processes; after a kill it goes on where it stopped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from diffpo.processes.stopping import end_in_order
from diffpo.storage.ledger import Ledger


def shared_out(
    numbers: Sequence[int],
    found: Callable[[Sequence[int]], Iterator[Mapping[int, Any]]],
    at_a_time: int,
    folder: Path,
    identity: Mapping[str, Any],
    what: str,
    unit: str,
) -> dict[int, Any]:
    """What is found for each number, by all processes and all runs; the ledger in the folder keeps it.

    Args:
        found: yields results for the given numbers as they come, each number once.
        at_a_time: how many numbers are given to `found`.
        identity: what the results depend on.
        what: stands before the progress bar of the main process, and counts `unit`s.

    Raises:
        Refusal: if the folder holds results of another identity.
        Refusal: if the folder cannot be written.
    """
    state = PartialState()
    ledger = Ledger(folder, identity, state.process_index)
    state.wait_for_everyone()  # nobody adds before all have seen the same
    missing = [number for number in numbers if number not in ledger.done]
    mine = np.array_split(missing, state.num_processes)[state.process_index].tolist()
    with end_in_order() as stop, tqdm(total=len(mine), desc=what, unit=unit, disable=not state.is_main_process) as bar:
        for begin in range(0, len(mine), at_a_time):
            for results in found(mine[begin : begin + at_a_time]):
                ledger.add(results)
                bar.update(len(results))
                stop.here()
    state.wait_for_everyone()
    return Ledger(folder, identity, state.process_index).done
