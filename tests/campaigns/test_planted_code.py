"""Code planted in files never runs; the campaign is `planted_code.py`."""

import pytest
from campaigns.planted_code import campaign
from campaigns.work import WORKS

QUICK = ("encoded", "remembered", "text")


def test_planted_code_does_not_run(tmp_path):
    outcomes = campaign(tmp_path, 0.0, works=[work for work in WORKS if work.name in QUICK])
    assert outcomes.tried > 100
    assert outcomes.worst == []


@pytest.mark.release
def test_code_planted_in_any_file_does_not_run(tmp_path):
    outcomes = campaign(tmp_path, 1.0)
    print(outcomes)
    assert outcomes.worst == []
