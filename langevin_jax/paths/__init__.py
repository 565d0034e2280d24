"""Forward processes xₜ = α(t) x₀ + σ(t) ε (paper, §3.1, Tables 1–2).

Reading order: `path` (the type, its conversions and transitions), `named` (closed forms), `sde`
(a path from a drift and a diffusion), `tables` (a path from a list of levels), `_host` (evaluation
in float64).
"""

from langevin_jax.paths._host import on_host
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
    check_path,
    convert,
    corrupt,
    from_coefficients,
    simulate,
    transition,
)
from langevin_jax.paths.sde import from_sde
from langevin_jax.paths.tables import from_table

__all__ = [
    "Path", "check_path", "convert", "corrupt", "cosine", "from_coefficients", "from_sde",
    "from_table", "geometric_ve", "linear_vp", "on_host", "rectified_flow", "simulate",
    "sub_vp", "transition", "ve", "vp",
]
