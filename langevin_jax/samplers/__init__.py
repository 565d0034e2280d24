"""Samplers: a grid of noise levels, a method, and one scan that runs them along any path."""

from langevin_jax.samplers import correctors
from langevin_jax.samplers.adaptive import adaptive, adaptive_sde
from langevin_jax.samplers.budgets import UnresolvedNoise
from langevin_jax.samplers.corrected import annealed_langevin, predictor_corrector
from langevin_jax.samplers.correctors import Corrector
from langevin_jax.samplers.edm import heun
from langevin_jax.samplers.flow_maps import flow_map
from langevin_jax.samplers.grids import (
    Grid,
    ancestral,
    cosine,
    explicit,
    karras,
    shifted,
    uniform_half_log_snr,
    uniform_time,
    within,
)
from langevin_jax.samplers.levels import Level, Method
from langevin_jax.samplers.multisteps import ddim, multistep, unipc
from langevin_jax.samplers.noise import brownian
from langevin_jax.samplers.optimised import optimised
from langevin_jax.samplers.own_time import adams_bashforth, euler, euler_maruyama
from langevin_jax.samplers.sampling import Trajectory, encode, sample, trajectory
from langevin_jax.samplers.singlesteps import singlestep
from langevin_jax.samplers.variances import ddpm

__all__ = [
    "Corrector", "Grid", "Level", "Method", "Trajectory", "UnresolvedNoise", "adams_bashforth",
    "adaptive", "adaptive_sde", "ancestral", "annealed_langevin", "brownian", "correctors",
    "cosine", "ddim", "ddpm", "encode", "euler", "euler_maruyama", "explicit", "flow_map", "heun",
    "karras", "multistep", "optimised", "predictor_corrector", "sample", "shifted", "singlestep",
    "trajectory", "uniform_half_log_snr", "uniform_time", "unipc", "within",
]
