"""Conditional sampling: inpainting by LanPaint and its baselines, and linear inverse problems."""

from langevin_jax.inpainting import inverse
from langevin_jax.inpainting.methods import (
    Inpainter,
    ddnm,
    langevin,
    lanpaint,
    repaint,
    replacement,
)
from langevin_jax.inpainting.sampling import checked, sample

__all__ = [
    "Inpainter", "checked", "ddnm", "inverse", "langevin", "lanpaint", "repaint", "replacement",
    "sample",
]
