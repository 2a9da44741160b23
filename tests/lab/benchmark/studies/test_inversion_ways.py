import pytest

from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.lab.benchmark.studies.inversion_ways import DPO, WAYS, Way


def test_expected_forward_passes_by_hand():
    """A walk of 10 steps takes 5.5 on average, the longest of 5 takes 55 / 6; one more is the reference's."""
    expected = {
        DPO: 1,
        "InPO": 5.5 + 1,
        "SmPO": 2 * 5.5 + 1,
        "SmPO, 5 steps": 2 * 3 + 1,
        "SmPO, last step refined": 5.5 + 1 + 1,
        "InPO, 5 visits": 55 / 6 / 5 + 1,
        "InPO, 10 visits": 10 / 10 + 1,
        "InPO, noise remembered": 1,
        "InPO, noise and errors remembered": 0,
    }
    assert {name: way.forwards for name, way in WAYS.items()} == pytest.approx(expected)


def test_times_in_units_of_plain_dpo_are_the_issues():
    named = {"InPO": 2.5, "SmPO": 4.0, "SmPO, last step refined": 2.8, "InPO, 5 visits": 1.5}
    assert {name: round(WAYS[name].by_arithmetic, 1) for name in named} == named


def test_released_code_takes_its_batches_beside_those_of_dpo():
    assert Way(PolicyInversion(), released=2 * 3.63).as_released == pytest.approx(3)
    assert Way().as_released is None
