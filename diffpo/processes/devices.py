"""Where a network that only reads is put."""

import torch

from diffpo.core.refusal import Refusal


def device_of(name: str | None) -> torch.device:
    """The device of that name; null is the accelerator if there is one, else the CPU.

    Raises:
        Refusal: if this machine has no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    try:
        return torch.empty(0, device=name or (found.type if found else "cpu")).device
    # An unknown kind is a RuntimeError, one that this torch was built without one of the others.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0][:200]
        raise Refusal(f"There is no device {name!r} here ({reason}); name another one, or null.") from error
