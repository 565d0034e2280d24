"""Forward processes on integers: q(x_t | x_0) = α δ(x_t, x_0) + (1 − α) π(x_t) per position.

The jump rates are Q(x, y) = β(t) (π(y) − δ(x, y)) with β = −α̇/α. The clock is a path of the
continuous part with σ = 1 − α, so that ℓ = log(α/(1 − α)), and grids and densities of noise levels
are shared with it: ρ = (1 − α)/α.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values, paths

__all__ = [
    "Path", "absorbing", "base_law", "check_path", "check_tokens", "corrupt", "cosine", "from_rate",
    "from_survival", "geometric", "kernel", "linear", "one_hot", "transition", "uniform",
]


class Path(NamedTuple):
  """A forward process on tokens 0 … V − 1, and a mask token V where there is one.

  Attributes:
    clock: α(t) as `alpha`, 1 − α as `sigma`, ℓ(t) = log(α/(1 − α)) and its inverse.
    base: π over the S states, (S,). S is V, or V + 1 with a mask token.
    vocabulary: V, the number of values that clean data take.
  """

  clock: paths.Path
  base: np.ndarray
  vocabulary: int

  @property
  def mask(self) -> int | None:
    """The mask token, V, or None."""
    return self.vocabulary if len(self.base) > self.vocabulary else None


def absorbing(vocabulary: int, clock: paths.Path | None = None) -> Path:
  """Masked diffusion: a token that is not kept becomes the mask token V.

  Args:
    vocabulary: V ≥ 2. clock: defaults to `linear()`.

  Reference: Austin et al. 2021 (D3PM), §3.1; Sahoo et al. 2024 (MDLM).

  Raises:
    ValueError: V < 2, or no clock.
  """
  return _path(vocabulary, clock, lambda n: np.append(np.zeros(n), 1.0))


def uniform(vocabulary: int, clock: paths.Path | None = None) -> Path:
  """Uniform diffusion: a token that is not kept becomes any of the V tokens.

  Args and errors are those of `absorbing`.

  Reference: Austin et al. 2021 (D3PM), §3.1; Lou et al. 2024 (SEDD).
  """
  return _path(vocabulary, clock, lambda n: np.full(n, 1.0 / n))


def _path(
    vocabulary: int, clock: paths.Path | None, base: Callable[[int], np.ndarray]
) -> Path:
  n = _values.count("vocabulary", vocabulary, 2)
  return Path(paths.check_path(linear() if clock is None else clock), base(n), n)


def linear() -> paths.Path:
  """α = 1 − t on [0, 1], the clock of masked diffusion and of discrete flow matching."""
  return paths.rectified_flow()


def cosine() -> paths.Path:
  """α = 1 − sin(πt/2) on [0, 1] (Chang et al. 2022, MaskGIT)."""
  return from_survival(lambda t: 2.0 * jnp.sin(0.25 * jnp.pi * (1.0 - t)) ** 2,
                       noise=lambda t: jnp.sin(0.5 * jnp.pi * t))


def geometric(rate_min: float = 1e-4, rate_max: float = 20.0) -> paths.Path:
  """α = exp(−b(t)), b = rate_min^{1−t} rate_max^t, on [0, 1] (Lou et al. 2024, §5.1).

  Raises:
    ValueError: not 0 < rate_min < rate_max.
  """
  rate_min, rate_max = (_values.number(name, value, may_be_traced=True)
                        for name, value in (("rate_min", rate_min), ("rate_max", rate_max)))
  if not _values.is_traced((rate_min, rate_max)) and not 0.0 < rate_min < rate_max:
    raise ValueError(f"rates must satisfy 0 < rate_min < rate_max, got {rate_min}, {rate_max}")
  total = lambda t: rate_min ** (1.0 - t) * rate_max**t
  return from_survival(lambda t: jnp.exp(-total(t)), noise=lambda t: -jnp.expm1(-total(t)))


def from_survival(
    alpha: Callable, *, noise: Callable | None = None, t_min: float = 0.0, t_max: float = 1.0
) -> paths.Path:
  """A clock from a survival probability α(t) that falls on [t_min, t_max].

  Args:
    alpha: scalar → scalar in [0, 1], in `jax.numpy`.
    noise: 1 − α in a form that is accurate where α is near 1.

  Raises:
    ValueError: α does not fall, or leaves [0, 1].
  """
  alpha = _values.in_jax("alpha", alpha)
  t_min, t_max = _values.number("t_min", t_min), _values.number("t_max", t_max)
  ends = paths.on_host(jax.vmap(lambda t: jnp.asarray(alpha(t), float)), np.array([t_min, t_max]))
  if not _values.is_traced(ends) and not (0.0 <= ends[1] < ends[0] <= 1.0):
    raise ValueError("a survival probability falls from at most 1 at t_min to at least 0 at t_max, "
                     f"got {ends[0]:.6g} and {ends[1]:.6g}")
  return paths.from_coefficients(
      alpha, noise or (lambda t: 1.0 - alpha(t)), t_min=t_min, t_max=t_max)


def from_rate(rate: Callable, *, t_max: float = 1.0) -> paths.Path:
  """A clock from the jump rate β(t) ≥ 0 on [0, t_max]: α = exp(−∫β dt).

  The integral is a Gauss–Legendre sum of 32 terms: exact to rounding for smooth rates.

  Raises:
    ValueError: a rate that is not positive somewhere.
  """
  nodes, weights = np.polynomial.legendre.leggauss(32)

  def total(t):
    times = 0.5 * t * jnp.asarray(nodes + 1.0, jnp.result_type(t, float))
    return 0.5 * t * jnp.sum(jnp.asarray(weights, times.dtype) * jax.vmap(rate)(times))

  return from_survival(lambda t: jnp.exp(-total(t)), noise=lambda t: -jnp.expm1(-total(t)),
                       t_max=t_max)


def check_path(path: Any) -> Path:
  """Returns `path` after a check of its type.

  Raises:
    ValueError: not a discrete `Path`.
  """
  if not isinstance(path, Path):
    raise ValueError("path must be a discrete path such as discrete.paths.absorbing(vocabulary), "
                     f"got {path!r}")
  return path


def check_tokens(x: Any, path: Path, *, masked: bool = False) -> jax.Array:
  """`x` as integers, after a check of type and range where the values are known.

  Args:
    masked: allow the mask token.

  Raises:
    ValueError: not integers, or a token outside the vocabulary.
  """
  states = len(path.base) if masked else path.vocabulary
  if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
    raise ValueError(f"tokens must be integers, got {jnp.result_type(x)}")
  known = _values.concrete(x)
  if known is not None and known.size:
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= states:
      raise ValueError(f"tokens must lie in 0 … {states - 1}, got {low} … {high}")
  return jnp.asarray(x)


def one_hot(x: jax.Array, path: Path, dtype: Any = None) -> jax.Array:
  """Tokens (...) as vectors (..., S)."""
  return jax.nn.one_hot(x, len(path.base), dtype=dtype or jnp.result_type(float))


def base_law(path: Path, x: jax.Array | jax.ShapeDtypeStruct, dtype: Any) -> jax.Array:
  """π at each position of the tokens x (...), as probabilities (..., S)."""
  return jnp.broadcast_to(jnp.asarray(path.base, dtype), (*x.shape, len(path.base)))


def kernel(path: Path, alpha: jax.Array | float, sigma: jax.Array | float | None = None
           ) -> jax.Array:
  """q(x_t = b | x_0 = a) as a matrix (V, S) at survival probability α; σ = 1 − α."""
  sigma = 1.0 - alpha if sigma is None else sigma
  base = jnp.asarray(path.base, jnp.result_type(alpha, float))
  return alpha * jnp.eye(path.vocabulary, len(base), dtype=base.dtype) + sigma * base[None]


def _resample(key: jax.Array, x: jax.Array, keep: jax.Array | float, path: Path) -> jax.Array:
  """Keeps each token with probability `keep` (a number, or of a shape that leads x's)."""
  key_keep, key_new = jax.random.split(key)
  keep = jnp.asarray(keep)
  kept = jax.random.uniform(key_keep, x.shape) < keep.reshape(
      keep.shape + (1,) * (x.ndim - keep.ndim))
  if path.mask is not None:
    return jnp.where(kept, x, path.mask)
  return jnp.where(kept, x, jax.random.randint(key_new, x.shape, 0, path.vocabulary, x.dtype))


def corrupt(key: jax.Array, x_0: jax.Array, alpha: jax.Array | float, path: Path) -> jax.Array:
  """A draw of q(x_t | x_0) at survival probability α.

  Args:
    key: consumed.
    x_0: tokens (..., L).
    alpha: a number, or one for each leading index of x_0.

  Raises:
    ValueError: tokens outside the vocabulary.
  """
  return _resample(key, check_tokens(x_0, check_path(path)), alpha, path)


def transition(
    key: jax.Array, x_s: jax.Array, s: jax.Array | float, t: jax.Array | float, path: Path
) -> jax.Array:
  """One exact draw of the forward process at time t, given its state at an earlier time s."""
  return _resample(key, x_s, path.clock.alpha(t) / path.clock.alpha(s), path)
