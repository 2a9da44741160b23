import pytest
from campaigns.counts import require_none_silent, table
from campaigns.full_disk import filled
from campaigns.worlds import ALL

SHORT = {"LoRA training": 3, "encode_pairs": 3, "score_pairs": 2, "evaluate": 2}
LONG = dict.fromkeys(ALL, 12)


@pytest.mark.parametrize("trials", [SHORT, pytest.param(LONG, marks=pytest.mark.release)], ids=["short", "long"])
def test_work_whose_disk_is_full_says_so_and_goes_on_to_the_same_end_once_there_is_room(tmp_path, trials):
    counts = filled(tmp_path, trials, seed=0)
    print(table("full disk", counts))
    require_none_silent(counts)
