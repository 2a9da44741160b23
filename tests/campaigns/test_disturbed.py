import pytest
from campaigns.counts import require_none_silent, table
from campaigns.kill import killed
from campaigns.worlds import ALL

SHORT = {"LoRA training": 3, "encode_pairs": 3, "score_pairs": 2, "evaluate": 1}
LONG = dict.fromkeys(ALL, 15)


@pytest.mark.parametrize("trials", [SHORT, pytest.param(LONG, marks=pytest.mark.release)], ids=["short", "long"])
def test_work_that_is_killed_at_any_moment_goes_on_to_the_same_end(tmp_path, trials):
    counts = killed(tmp_path, trials, seed=0)
    print(table("killed", counts))
    require_none_silent(counts)
