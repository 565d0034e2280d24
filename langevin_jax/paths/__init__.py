"""Forward processes (§3.1, Tables 1–2): named, from coefficients, or from an SDE of your own."""

from langevin_jax.paths.named import (
    cosine,
    geometric_ve,
    linear_vp,
    rectified_flow,
    sub_vp,
    ve,
    vp,
)
from langevin_jax.paths.path import (
    Path,
    convert,
    corrupt,
    from_coefficients,
    on_host,
    simulate,
    transition,
)
from langevin_jax.paths.sde import from_sde

__all__ = [
    "Path", "convert", "corrupt", "cosine", "from_coefficients", "from_sde", "geometric_ve",
    "linear_vp", "on_host", "rectified_flow", "simulate", "sub_vp", "transition", "ve", "vp",
]
