"""Samplers: a grid of noise levels, a method, and one scan that runs them along any path."""

from langevin_jax.samplers.grids import (
    Grid,
    cosine,
    karras,
    shifted,
    uniform_half_log_snr,
    uniform_time,
)
from langevin_jax.samplers.methods import Method, ddim, euler, euler_maruyama, heun
from langevin_jax.samplers.sampling import Trajectory, sample, trajectory

__all__ = [
    "Grid", "Method", "Trajectory", "cosine", "ddim", "euler", "euler_maruyama", "heun", "karras",
    "sample", "shifted", "trajectory", "uniform_half_log_snr", "uniform_time",
]
