import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.processes.devices import device_of


@pytest.mark.parametrize("name", ["cudda", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    if name:
        with pytest.raises(Refusal, match=f"There is no device '{name}' here .*; name another one, or null"):
            device_of(name)


def test_no_name_is_what_the_machine_has():
    found = torch.accelerator.current_accelerator(check_available=True)
    assert device_of(None).type == (found.type if found else "cpu")
    assert device_of("cpu") == torch.device("cpu")
