"""Samplers: a grid of noise levels, a method, and one scan that runs them along any path."""

from langevin_jax.samplers.grids import (
    Grid,
    cosine,
    karras,
    shifted,
    uniform_half_log_snr,
    uniform_time,
)
from langevin_jax.samplers.levels import Level, Method
from langevin_jax.samplers.linear import (
    adams_bashforth,
    ddim,
    euler,
    euler_maruyama,
    multistep,
    unipc,
)
from langevin_jax.samplers.noise import brownian
from langevin_jax.samplers.sampling import Trajectory, sample, trajectory
from langevin_jax.samplers.staged import heun, singlestep

__all__ = [
    "Grid", "Level", "Method", "Trajectory", "adams_bashforth", "brownian", "cosine", "ddim",
    "euler", "euler_maruyama", "heun", "karras", "multistep", "sample", "shifted", "singlestep",
    "trajectory", "uniform_half_log_snr", "uniform_time", "unipc",
]
