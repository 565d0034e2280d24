"""What a network predicts, as a linear form of (x₀, ε) (paper, §3.3, eq. 9, Table 5).

Each prediction is a row (a, b) of coefficients, y = a x₀ + b ε. Together with the state
x = α x₀ + σ ε it is a 2×2 linear system, and one solve converts any prediction into any other:

  x₀ = (b x − σ y)/(α b − σ a),   ε = (α y − a x)/(α b − σ a).

The same holds for posterior means, because the map is linear.

| name | a | b |
|---|---|---|
| x0 | 1 | 0 |
| eps | 0 | 1 |
| score | 0 | −1/σ |
| velocity | α̇ | σ̇ |
| v (Salimans & Ho 2022) | −σ | α |
| edm(σ_d) (Karras et al. 2022, Table 1) | σ/(σ_d r) | −α σ_d/r, r = √(σ² + α²σ_d²) |

A new prediction is one more row; no other code changes.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _programs
from langevin_jax.paths import Path, check_path

__all__ = [
    "ROWS", "Denoise", "Denoiser", "Frame", "Row", "at_level", "clipped", "convert", "denoiser",
    "edm", "frame", "named", "solve", "unit_frame",
]


class Frame(NamedTuple):
  """Coefficients of a state x = α x₀ + σ ε and of its velocity α̇ x₀ + σ̇ ε; all scalars."""

  alpha: jax.Array
  sigma: jax.Array
  alpha_dot: jax.Array
  sigma_dot: jax.Array


Row = Callable[[Frame], tuple[jax.Array, jax.Array]]
Denoise = Callable[[jax.Array, jax.Array], jax.Array]


def edm(sigma_data: float = 1.0) -> Row:
  """The row of EDM's F, defined by D = c_skip x + c_out F (Karras et al. 2022, eq. 7).

    c_skip = α σ_d²/r²,   c_out = σ σ_d/r,   r² = σ² + α²σ_d²

  Args:
    sigma_data: σ_d, the standard deviation of the data.
  """
  if not 0.0 < sigma_data < math.inf:
    raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}")

  def row(frame):
    r = jnp.hypot(frame.sigma, frame.alpha * sigma_data)
    return frame.sigma / (sigma_data * r), -frame.alpha * sigma_data / r

  return row


ROWS: dict[str, Row] = {
    "x0": lambda frame: (jnp.ones_like(frame.alpha), jnp.zeros_like(frame.alpha)),
    "eps": lambda frame: (jnp.zeros_like(frame.alpha), jnp.ones_like(frame.alpha)),
    "score": lambda frame: (jnp.zeros_like(frame.alpha), -1.0 / frame.sigma),
    "velocity": lambda frame: (frame.alpha_dot, frame.sigma_dot),
    "v": lambda frame: (-frame.sigma, frame.alpha),
    "edm": edm(),
}


def named(prediction: str | Row) -> Row:
  """The row with a given name. A row is returned as it is.

  Raises:
    ValueError: a name that is not in `ROWS`.
  """
  if prediction is edm:
    raise ValueError('prediction must be a name or a row: call edm, as in predictions.edm(1.0)')
  if callable(prediction):
    return prediction
  if not isinstance(prediction, str) or prediction not in ROWS:
    raise ValueError(f"prediction must be one of {', '.join(ROWS)}, got {prediction!r}")
  return ROWS[prediction]


def frame(path: Path, t: jax.Array | float) -> Frame:
  """The frame of a path at time t."""
  return Frame(path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t))


def unit_frame(ell: jax.Array | float) -> Frame:
  """The frame at unit scale, α² + σ² = 1, in which every network works.

    α² = sigmoid(2ℓ),   σ² = sigmoid(−2ℓ),   velocity ε − x₀

  The velocity is that of rectified flow for every path, because the output of a network must not
  depend on the clock of a path.

  Args:
    ell: half log-SNR, a scalar or an array; ±∞ allowed.
  """
  alpha, sigma = jnp.sqrt(jax.nn.sigmoid(2.0 * ell)), jnp.sqrt(jax.nn.sigmoid(-2.0 * ell))
  return Frame(alpha, sigma, -jnp.ones_like(alpha), jnp.ones_like(alpha))


def solve(
    value: jax.Array, x_t: jax.Array, frame: Frame, row: Row
) -> tuple[jax.Array, jax.Array]:
  """(x₀, ε) of a state and a prediction `value` = a x₀ + b ε, by the equation of the module.

  At σ = 0 the state determines x₀ = x/α for every row. Quantities that are not determined are not
  finite: ε from x₀ at σ = 0, x₀ from ε or the score at α = 0.

  Args:
    value, x_t: the prediction and the state, of one shape.
    frame: the coefficients of the state. row: the coefficients of the prediction.

  Returns:
    x₀ and ε, each in the shape of x_t.
  """
  a, b = row(frame)
  determinant = frame.alpha * b - frame.sigma * a
  clean = frame.sigma == 0.0
  x_0 = (b / determinant) * x_t - (frame.sigma / determinant) * value
  x_0 = jnp.where(clean, x_t / jnp.where(clean, frame.alpha, 1.0), x_0)
  eps = (frame.alpha / determinant) * value - (a / determinant) * x_t
  return x_0, eps


def like_state(value: jax.Array, x: jax.Array, name: str) -> jax.Array:
  """The output of a model, checked against its input x and cast to the dtype of x.

  Args:
    value: the output. x: the input.
    name: of the model, for the message.

  Raises:
    ValueError: no array, another shape than that of x, or a dtype that is not floating.
  """
  if not hasattr(value, "dtype") and not isinstance(value, (int, float)):
    raise ValueError(f"{name} must return floats in the shape {jnp.shape(x)} of the state, got a "
                     f"{type(value).__name__}")
  shape, dtype = jnp.shape(value), jnp.result_type(value)
  if shape != jnp.shape(x) or not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"{name} must return floats in the shape {jnp.shape(x)} of the state, got "
                     f"{dtype} of shape {shape}")
  # A state of integers keeps the dtype of the output.
  return jnp.asarray(value, jnp.result_type(x)) if jnp.issubdtype(
      jnp.result_type(x), jnp.floating) else value


def convert(
    value: jax.Array, x_t: jax.Array, t: jax.Array | float, path: Path, *,
    source: str | Row, target: str | Row,
) -> jax.Array:
  """Converts one prediction into another (paper, Table 5).

  Args:
    value: the prediction `source` of one example, in the shape of `x_t`.
    x_t: the state on `path` at scalar time `t`.
    source, target: names in `ROWS`, or rows.

  Returns:
    The prediction `target`, in the shape of `x_t`; not finite where the state and `value` do not
    determine it, as in `solve`.

  Raises:
    ValueError: an unknown name, or a value in another shape than the state's.
  """
  check_path(path)
  if jnp.shape(value) != jnp.shape(x_t):
    raise ValueError(f"value and x_t must have one shape, got {jnp.shape(value)} and "
                     f"{jnp.shape(x_t)}")
  if source == target:
    return value
  here = frame(path, t)
  (a, b), (c, d) = named(source)(here), named(target)(here)
  determinant = here.alpha * b - here.sigma * a
  return (((c * b - d * a) / determinant) * x_t
          + ((d * here.alpha - c * here.sigma) / determinant) * value)


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A denoiser that is defined by noise level, as a function `denoise(x_t, t)` = E[x₀ | xₜ].

  Samplers, guidance and inpainting call `at` with the levels of their grid. Samples are then
  bitwise the same along every path on one grid. A plain function `denoise(x_t, t)` works
  everywhere too; its samples agree between paths to rounding.

  Attributes:
    at: (x, ell) → D for states at unit scale, x = xₜ/√(α² + σ²), with any leading axes, and the
      scalar half log-SNR `ell`. It must not depend on the path.
    path: defines the time t and the scale of xₜ.
    average: (x, ell, ell_s) → D̄, the average denoiser of a flow map (`flow_maps`), None of others.
  """

  at: Callable[[jax.Array, jax.Array], jax.Array]
  path: Path
  average: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None

  def __call__(self, x_t: jax.Array, t: jax.Array | float) -> jax.Array:
    scale = jnp.hypot(self.path.alpha(t), self.path.sigma(t))
    return self.at(x_t / scale, self.path.half_log_snr(t))


def at_level(denoise: Denoise, path: Path) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A denoiser along `path` as a function (x, ell) → D of unit-scale states and half log-SNRs.

  Raises:
    ValueError: `path` is not a path or `denoise` not a function; at a call, an output that is not
      floats in the shape of x.
  """
  check_path(path)
  if isinstance(denoise, Denoiser):
    at_unit_scale = _programs.unjitted(denoise.at)
    return lambda x, ell: like_state(at_unit_scale(x, ell), x, "denoise")
  if not callable(denoise):
    raise ValueError(f"denoise must be a function (x_t, t) of states and times, got {denoise!r}")

  denoise = _programs.unjitted(denoise)

  def at(x, ell):
    t = path.time(ell)
    return like_state(denoise(jnp.hypot(path.alpha(t), path.sigma(t)) * x, t), x, "denoise")

  return at


def denoiser(
    network: Callable[[jax.Array, jax.Array], jax.Array], path: Path, *, prediction: str | Row
) -> Denoiser:
  """A network as `denoise(x_t, t)` = E[x₀ | xₜ] along a path.

  The network is called with x/√(α² + σ²) and the scalar ℓ. Its output is the row `prediction` in
  `unit_frame`. Neither depends on the path, so one trained network samples along every path.

  Args:
    network: (x, ell) → prediction, for whole batches, x with any leading axes.
    path: defines the time t.
    prediction: the row that the network was trained to predict.

  Raises:
    ValueError: an unknown name, no path or no function; at a call, a network output that is not
      floats in the shape of x. Half-precision outputs are cast to the dtype of the state.
  """
  row = named(prediction)
  check_path(path)
  if not callable(network):
    raise ValueError(f"network must be a function (x, ell), got {network!r}")
  network = _programs.unjitted(network)
  return Denoiser(lambda x, ell: solve(
      like_state(network(x, ell), x, "network"), x, unit_frame(ell), row)[0], path)


def clipped(
    denoise: Denoise, path: Path, low: float | jax.Array, high: float | jax.Array
) -> Denoiser:
  """A denoiser whose x₀ is limited to the range of the data, D ← min(max(D, low), high).

  The posterior mean of data in [low, high] lies there, so that of an exact model is not changed.
  That of a network at high noise may leave it. The ε of a step is then that of the clipped D.

  Args:
    denoise: the model along `path`; a flow map's average denoiser is clipped too.
    path: defines the time t.
    low, high: the range, numbers or arrays that broadcast to one example.

  Reference:
    Ho, Jain & Abbeel 2020, whose sampler does so; Saharia et al. 2022, §2.3, "static thresholding".
  """
  at = at_level(denoise, path)
  average = denoise.average if isinstance(denoise, Denoiser) else None

  def limit(value):
    ends = (jnp.broadcast_to(jnp.asarray(end, value.dtype), value.shape) for end in (low, high))
    return jnp.clip(value, *ends)

  return Denoiser(
      lambda x, ell: limit(at(x, ell)), path,
      None if average is None else lambda x, ell, ell_s: limit(average(x, ell, ell_s)))
