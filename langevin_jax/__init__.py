"""Diffusion, score and flow-matching models as splits of one Langevin step.

Rooms in the paper's order; each imports only those before it.
"""

from langevin_jax import (
    guidance,
    inpainting,
    langevin,
    likelihood,
    mixtures,
    networks,
    objectives,
    paths,
    predictions,
    samplers,
    splitting,
    training,
)

__version__ = "0.1.0"

__all__ = [
    "guidance", "inpainting", "langevin", "likelihood", "mixtures", "networks", "objectives",
    "paths", "predictions", "samplers", "splitting", "training",
]
