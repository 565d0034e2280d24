"""Diffusion, score and flow-matching models as splits of one Langevin step.

Reading order, in which a module imports only those before it: `paths`, `predictions`, `langevin`,
`splitting`, `mixtures`, `objectives`, `samplers`, `flow_maps`, `likelihood`, `conditions`,
`guidance`, `inpainting`, `discrete`, `networks`, `training`. Public names are those in `__all__`;
modules and names that begin with an underscore are internal.
"""

from langevin_jax import (
    conditions,
    discrete,
    flow_maps,
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
    "conditions", "discrete", "flow_maps", "guidance", "inpainting", "langevin", "likelihood",
    "mixtures", "networks", "objectives", "paths", "predictions", "samplers", "splitting",
    "training",
]
