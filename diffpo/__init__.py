"""diffpo: preference alignment of diffusion models."""

from diffpo.quiet import leave_out_what_is_said_in_vain

__version__ = "0.1.0"

leave_out_what_is_said_in_vain()
