"""§3.3, eq. 9, Table 5 and beyond: what a network predicts is one linear map.

Each prediction is a row (a, b) of coefficients, y = a x₀ + b ε. With the state x = α x₀ + σ ε it
makes a 2×2 system, so one solve turns any prediction into any other (averages over the posterior
obey the same equations, the map being linear):

  x₀ = (b x − σ y)/(α b − σ a),   ε = (α y − a x)/(α b − σ a).

| name | a | b |
|---|---|---|
| x0 | 1 | 0 |
| eps | 0 | 1 |
| score | 0 | −1/σ |
| velocity | α̇ | σ̇ |
| v (Salimans & Ho 2022) | −σ | α |
| edm(σ_d) (Karras et al. 2022, Table 1) | σ/(σ_d r) | −α σ_d/r, r = √(σ² + α²σ_d²) |

Add one by writing a row; nothing else needs to know of it.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _programs
from langevin_jax.paths import Path, check_path


class Frame(NamedTuple):
  """The coefficients of a state x = α x₀ + σ ε and of its velocity, at one time; all scalars."""

  alpha: jax.Array
  sigma: jax.Array
  alpha_dot: jax.Array
  sigma_dot: jax.Array


Row = Callable[[Frame], tuple[jax.Array, jax.Array]]


def edm(sigma_data: float = 1.0) -> Row:
  """EDM's F, with D = c_skip x + c_out F (Karras et al. 2022, eq. 7); `sigma_data` in data units.

  c_skip = α σ_d²/r², c_out = σ σ_d/r, r² = σ² + α²σ_d²: unit variance in, unit variance out.
  """
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
  """The row called `prediction`, or `prediction` itself where it is a row already.

  Raises:
    ValueError: a name that `ROWS` does not have.
  """
  if prediction is edm:
    raise ValueError('prediction must be a name or a row: call edm, as in predictions.edm(1.0)')
  if callable(prediction):
    return prediction
  if not isinstance(prediction, str) or prediction not in ROWS:
    raise ValueError(f"prediction must be one of {', '.join(ROWS)}, got {prediction!r}")
  return ROWS[prediction]


def frame(path: Path, t: jax.Array | float) -> Frame:
  """The path's own frame at time t."""
  return Frame(path.alpha(t), path.sigma(t), path.alpha_dot(t), path.sigma_dot(t))


def unit_frame(ell: jax.Array | float) -> Frame:
  """The frame in which every network works: α² + σ² = 1 at half log-SNR `ell`, ±∞ included.

  α² = sigmoid(2ℓ), σ² = sigmoid(−2ℓ). Its velocity row is rectified flow's ε − x₀, whatever the
  path: a network's output must not depend on a path's clock.
  """
  alpha, sigma = jnp.sqrt(jax.nn.sigmoid(2.0 * ell)), jnp.sqrt(jax.nn.sigmoid(-2.0 * ell))
  return Frame(alpha, sigma, -jnp.ones_like(alpha), jnp.ones_like(alpha))


def solve(
    value: jax.Array, x_t: jax.Array, frame: Frame, row: Row
) -> tuple[jax.Array, jax.Array]:
  """(x₀, ε) of a state and of the prediction `value` = a x₀ + b ε; see the module's equation.

  At σ = 0 the state itself says x₀ = x/α, whatever the row. What is not determined is not finite:
  ε from x₀ at σ = 0, x₀ from ε or score at α = 0.
  """
  a, b = row(frame)
  determinant = frame.alpha * b - frame.sigma * a
  clean = frame.sigma == 0.0
  x_0 = (b / determinant) * x_t - (frame.sigma / determinant) * value
  x_0 = jnp.where(clean, x_t / jnp.where(clean, frame.alpha, 1.0), x_0)
  eps = (frame.alpha / determinant) * value - (a / determinant) * x_t
  return x_0, eps


def like_state(value: jax.Array, x: jax.Array, name: str) -> jax.Array:
  """What a model says of the state x, in the dtype of x: a half-precision output is no error.

  Args:
    value: the output of the model that the message calls `name`.

  Raises:
    ValueError: another shape than that of x, or a dtype that is not floating.
  """
  shape, dtype = jnp.shape(value), jnp.result_type(value)
  if shape != jnp.shape(x) or not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"{name} must return floats in the shape {jnp.shape(x)} of the state, got "
                     f"{dtype} of shape {shape}")
  # Times may be of another precision than a state of plain numbers.
  return jnp.asarray(value, jnp.result_type(x)) if jnp.issubdtype(
      jnp.result_type(x), jnp.floating) else value


def convert(
    value: jax.Array, x_t: jax.Array, t: jax.Array | float, path: Path, *,
    source: str | Row, target: str | Row,
) -> jax.Array:
  """Table 5: the prediction `target` that says the same as the prediction `source` = `value`.

  Args:
    value: the given prediction for one example, shape of `x_t`.
    x_t: the state on `path` at scalar time `t`.
    source, target: names in `ROWS`, or rows of your own.

  A prediction that the state does not determine is not finite: see `solve`.

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
  """A model that knows no path, made to run along one: `denoise(x_t, t)` = E[x₀ | xₜ].

  at: (x, ell) → D for states at unit scale, x = xₜ/√(α² + σ²) with any leading axes, and the scalar
    half log-SNR `ell`; everything that the model is.
  path: only says what `t` means and how large xₜ is.

  Samplers, guidance and inpainting call `at` with the levels of their grid, so that a model of this
  kind makes the same samples, bit for bit, along every path on the same grid. Any function
  `denoise(x_t, t)` will do in its place, to rounding.
  """

  at: Callable[[jax.Array, jax.Array], jax.Array]
  path: Path

  def __call__(self, x_t: jax.Array, t: jax.Array | float) -> jax.Array:
    scale = jnp.hypot(self.path.alpha(t), self.path.sigma(t))
    return self.at(x_t / scale, self.path.half_log_snr(t))


Denoise = Callable[[jax.Array, jax.Array], jax.Array]


def at_level(denoise: Denoise, path: Path) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Any `denoise(x_t, t)` along `path` as a function (x, ell) of unit-scale states and levels.

  Raises:
    ValueError: `path` is no path; when called, what `like_state` refuses.
  """
  check_path(path)
  if isinstance(denoise, Denoiser):
    given = _programs.unjitted(denoise.at)
    return lambda x, ell: like_state(given(x, ell), x, "denoise")
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
  """A network as `denoise(x_t, t)` = E[x₀ | xₜ] on any path.

  The network sees its input at unit scale, x/√(α² + σ²), and the noise level as ℓ, a scalar here;
  its output is read as the row `prediction` in `unit_frame`. Nothing in it depends on the path, so
  one trained network samples along every path.

  Args:
    network: (x, ell) → row value, whole batches, x with any leading axes.
    path: the path along which `t` runs.
    prediction: the row that the network was trained to predict.

  Raises:
    ValueError: an unknown name, no path or no function; when called, a network whose output is not
      floats in the shape of x. Half-precision outputs are cast to the state's dtype.
  """
  row = named(prediction)
  check_path(path)
  if not callable(network):
    raise ValueError(f"network must be a function (x, ell), got {network!r}")
  network = _programs.unjitted(network)
  return Denoiser(lambda x, ell: solve(
      like_state(network(x, ell), x, "network"), x, unit_frame(ell), row)[0], path)
