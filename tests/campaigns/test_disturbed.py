"""Work is killed, or its disk fills; the campaigns are `kill.py` and `full_disk.py`.

In one file, so that one worker runs both: their programs are forked from one process that has imported the libraries,
and work that nothing happens to is done once for both.
"""

from collections.abc import Mapping

import pytest
from campaigns.counts import require_none_silent, table
from campaigns.full_disk import filled
from campaigns.kill import killed
from campaigns.programs import begin_anew
from campaigns.worlds import ALL, Work, works

KILLED = {"LoRA training": 3, "encode_pairs": 1, "evaluate": 1}
FILLED = {"LoRA training": 2, "score_pairs": 1, "evaluate": 1}


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> Mapping[str, Work]:
    begin_anew()
    return works(tmp_path_factory.mktemp("tried"))


@pytest.mark.parametrize(
    "trials", [KILLED, pytest.param(dict.fromkeys(ALL, 15), marks=pytest.mark.release)], ids=["short", "long"]
)
def test_work_that_is_killed_at_any_moment_goes_on_to_the_same_end(tried, trials):
    counts = killed(tried, trials, seed=0)
    print(table("killed", counts))
    require_none_silent(counts)


@pytest.mark.parametrize(
    "trials", [FILLED, pytest.param(dict.fromkeys(ALL, 12), marks=pytest.mark.release)], ids=["short", "long"]
)
def test_work_whose_disk_is_full_says_so_and_goes_on_to_the_same_end_once_there_is_room(tried, trials):
    counts = filled(tried, trials, seed=0)
    print(table("full disk", counts))
    require_none_silent(counts)
