"""diffpo: preference alignment of diffusion models."""

import lazy_loader as lazy

from diffpo.processes.quiet import leave_out_what_is_said_in_vain

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

leave_out_what_is_said_in_vain()
