"""Conditional sampling: inpainting and linear inverse problems (theory.md#conditional-sampling).

Reading order: `methods` (LanPaint and its baselines), `_dynamics` (LanPaint's inner iterations),
`sampling` (the complete call), `inverse` (denoisers of linear inverse problems).
"""

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
