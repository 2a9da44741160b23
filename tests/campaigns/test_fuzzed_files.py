"""Mutated pictures, configs, tables and LoRA files; the campaigns are `fuzzed_pictures.py` and `fuzzed_files.py`."""

import pytest
from campaigns import fuzzed_files, fuzzed_pictures
from campaigns.fuzzed_pictures import ROOM


def test_mutated_pictures_are_read_or_broken_and_nothing_is_said(tmp_path):
    outcomes, grown = fuzzed_pictures.campaign(600, keep=tmp_path)
    assert outcomes.tried == 600
    assert outcomes.worst == []
    assert grown < ROOM


def test_mutated_files_are_read_or_refused_in_one_line():
    assert fuzzed_files.campaign(8).worst == []


@pytest.mark.release
def test_ten_thousand_mutated_pictures():
    outcomes, grown = fuzzed_pictures.campaign(10_000, seed=1)
    print(outcomes)
    assert outcomes.worst == []
    assert grown < ROOM


@pytest.mark.release
def test_hundreds_of_mutated_files_of_each_kind():
    outcomes = fuzzed_files.campaign(400, seed=1)
    print(outcomes)
    assert outcomes.worst == []
