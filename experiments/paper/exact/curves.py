"""Reverse trajectories in the plane, and measures of their curvature.

The first axis of an array is the point or tangent of a curve, the last one the coordinates; the
axes between are independent curves. Turning, and lengths relative to the chord, are invariant under
translation, rotation, scaling and changes of speed. `unevenness` depends on the speed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import mixtures, paths, predictions, samplers

# The paths of Figure 5, and one that differs from VP in its time only.
PATHS = {"VP": paths.vp(), "cosine": paths.cosine(), "VE": paths.ve(), "RF": paths.rectified_flow()}
LONG = {"VP": "VP-ODE", "cosine": "cosine VP-ODE", "VE": "VE-Karras", "RF": "rectified flow"}
RHO_MAX, RHO_MIN = 80.0, 0.002


class Curves(NamedTuple):
  """n curves: times t (steps + 1,), points x (steps + 1, n, 2), and dx/dt at all but the last."""

  t: np.ndarray
  x: np.ndarray
  velocity: np.ndarray


class Geometry(NamedTuple):
  """Measures of n curves, (n,) each. by_level: the angle of each turn, (steps − 1, n)."""

  turning: np.ndarray
  length: np.ndarray
  chord: np.ndarray
  bulge: np.ndarray
  unevenness: np.ndarray
  by_level: np.ndarray


def reverse(mixture: mixtures.Mixture, noise: np.ndarray, steps: int) -> dict[str, Curves]:
  """The reverse ODE of each path from σ · noise (n, 2) at ρ_max to ρ_min, steps even in ℓ."""
  return jax.tree.map(np.asarray, _reverse(mixture, noise, steps))


@functools.partial(jax.jit, static_argnames="steps")
def _reverse(mixture, noise, steps):
  found = {}
  for name, path in PATHS.items():
    run = samplers.trajectory(
        jax.random.key(0), mixtures.denoiser(mixture, path), path, shape=noise.shape,
        method=samplers.multistep(3), initial=_first(path, noise),
        grid=samplers.uniform_half_log_snr(steps, rho_min=RHO_MIN, rho_max=RHO_MAX))
    # The tangent α̇ D + σ̇ ε̂ is the velocity of Table 5.
    velocity = jax.vmap(lambda d, x, t, path=path: predictions.convert(
        d, x, t, path, source="x0", target="velocity"))(run.denoised, run.x[:-1], run.t[:-1])
    found[name] = Curves(run.t, run.x, velocity)
  return found


def geometry(curve: Curves) -> Geometry:
  by_level = angles(curve.velocity)
  return Geometry(by_level.sum(axis=0), length(curve.x), chord(curve.x), bulge(curve.x),
                  unevenness(*curve), by_level)


def levels(steps: int) -> np.ndarray:
  """The half log-SNRs ℓ (steps,) of the levels before the clean end."""
  return np.linspace(-np.log(RHO_MAX), -np.log(RHO_MIN), steps)


def _first(path: paths.Path, noise: jax.Array) -> jax.Array:
  return path.sigma(path.time(-jnp.log(RHO_MAX))) * noise


def times(steps: int) -> np.ndarray:
  """VP's times (steps + 1,) from ρ_max to 0, even."""
  return np.linspace(np.log1p(RHO_MAX**2), 0.0, steps + 1)


def diffused(
    key: jax.Array, mixture: mixtures.Mixture, noise: np.ndarray, steps: int
) -> np.ndarray:
  """States (steps + 1, n, 2) of VP's reverse SDE (η = 1) from σ · noise, at `times(steps)`."""
  return np.asarray(_diffused(key, mixture, noise, steps))


@functools.partial(jax.jit, static_argnames="steps")
def _diffused(key, mixture, noise, steps):
  path = PATHS["VP"]
  rho = np.exp(-paths.on_host(jax.vmap(path.half_log_snr), times(steps)[:-1]))
  return samplers.trajectory(
      key, mixtures.denoiser(mixture, path), path, shape=noise.shape, method=samplers.ddim(1.0),
      grid=samplers.explicit(rho), initial=_first(path, noise)).x


@jax.jit
def mean_path(mixture: mixtures.Mixture, noise: jax.Array, t: jax.Array) -> jax.Array:
  """E[x_t | x_T] of VP's reverse SDE from `noise` (n, 2) at ρ_T = ρ_max, at times t: (m, n, 2).

    E[z_t | z_T] = D(z_T) + (ρ_t/ρ_T)² (z_T − D(z_T)),   z = x/α

  With the exact score the reverse SDE is the reversed forward process, a Brownian bridge in ρ²
  given z₀ and z_T. So the mean path leads to the point D(z_T).
  """
  path = PATHS["VP"]
  end = path.time(-jnp.log(RHO_MAX))
  goal = mixtures.denoiser(mixture, path)(_first(path, noise), end)[None]
  start = _first(path, noise)[None] / path.alpha(end)
  alpha, sigma = (jax.vmap(f)(t)[:, None, None] for f in (path.alpha, path.sigma))
  return alpha * goal + sigma**2 / alpha / RHO_MAX**2 * (start - goal)  # αρ² = σ²/α


def arc(x_0: np.ndarray, eps: np.ndarray) -> np.ndarray:
  """The turning (n,) of x = cos φ x₀ + sin φ ε, an ellipse's arc, from ρ_max to ρ_min.

  The arc is convex and shorter than half of the ellipse, so that the turning is the angle between
  the tangents −sin φ x₀ + cos φ ε at its ends. x_0 (2,), eps (n, 2).
  """
  phi = np.arctan([RHO_MAX, RHO_MIN])[:, None, None]
  return angles(-np.sin(phi) * np.asarray(x_0) + np.cos(phi) * eps)[0]


def angles(tangents: np.ndarray) -> np.ndarray:
  """Angles between successive tangents (n, ..., d), in [0, π] radians, (n − 1, ...).

  Their sum approximates the turning ∫|κ| ds from below, with an error O(1/n²). The formula
  2 atan2(|u − v|, |u + v|) of unit vectors is accurate near 0 and π, where arccos is not.
  """
  unit = tangents / _norm(tangents)[..., None]
  return 2.0 * np.arctan2(_norm(unit[1:] - unit[:-1]), _norm(unit[1:] + unit[:-1]))


def length(x: np.ndarray) -> np.ndarray:
  """The length of the polygon through points (n, ..., d)."""
  return _norm(np.diff(x, axis=0)).sum(axis=0)


def chord(x: np.ndarray) -> np.ndarray:
  """The distance between the ends of curves (n, ..., d)."""
  return _norm(x[-1] - x[0])


def bulge(x: np.ndarray) -> np.ndarray:
  """The largest distance of points (n, ..., d) from the chord, the segment between the ends."""
  whole, here = x[-1] - x[0], x - x[0]
  squared = np.sum(whole**2, axis=-1)
  along = np.sum(here * whole, axis=-1) / np.where(squared > 0.0, squared, 1.0)
  return _norm(here - np.clip(along, 0.0, 1.0)[..., None] * whole).max(axis=0)


def unevenness(t: np.ndarray, x: np.ndarray, velocity: np.ndarray) -> np.ndarray:
  """∫₀¹‖(x₁ − x₀) − dx/du‖² du, u the time t (n + 1,) scaled to [0, 1]; the trapezoidal rule.

  It is 0 for a straight curve with constant speed. For rectified flow it is the straightness S of
  Liu et al. (2022, §2.2). velocity: dx/dt (n, ..., d) at all points but the last, where the value
  before is used.
  """
  span = t[-1] - t[0]
  miss = np.sum((x[-1] - x[0] - span * velocity) ** 2, axis=-1)
  return np.tensordot(np.diff(t) / span, 0.5 * (miss + np.concatenate([miss[1:], miss[-1:]])), 1)


def _norm(vectors: np.ndarray) -> np.ndarray:
  return np.sqrt(np.sum(vectors**2, axis=-1))
