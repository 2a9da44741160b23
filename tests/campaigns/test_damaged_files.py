"""Damaged files of work are told, or made anew; the campaign itself is `damaged_files.py`."""

import sys

import pytest
from campaigns.damaged_files import campaign
from campaigns.outcomes import Heard, listen
from campaigns.work import WORKS

QUICK = ("text", "remembered", "encoded", "encoded, half", "scored, half", "captions, half", "judged", "judged, half")


@pytest.mark.parametrize(
    ("given", "heard"),
    [("error: a; b.", Heard(1, "", ["error: a; b."])), (3, Heard(3)), (None, Heard()), (0, Heard())],
)
def test_a_program_may_end_with_a_line_instead_of_a_number(given, heard):
    assert listen(lambda: sys.exit(given)) == heard


def test_no_damage_passes_in_silence(tmp_path):
    outcomes = campaign(tmp_path, 0.0, 1, works=[work for work in WORKS if work.name in QUICK])
    assert outcomes.tried > 30
    assert outcomes.worst == []


@pytest.mark.release
def test_no_damage_to_any_folder_passes_in_silence(tmp_path):
    outcomes = campaign(tmp_path, 0.0, 2, each=True)
    print(outcomes)
    assert outcomes.worst == []
