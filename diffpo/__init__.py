"""diffpo: preference alignment of diffusion models."""

__version__ = "0.1.0"
