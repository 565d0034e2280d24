"""Forward processes (§3.1, Tables 1–2): named, from coefficients, or from an SDE of your own."""

from langevin_jax.paths.host import is_traced, on_host
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
    "from_table", "geometric_ve", "is_traced", "linear_vp", "on_host", "rectified_flow", "simulate",
    "sub_vp", "transition", "ve", "vp",
]
