"""Guidance: a denoiser from two denoisers (theory.md#conditional-sampling).

Guided models are functions of the state at unit scale (α² + σ² = 1) and the level ℓ, so they work
along every path. At a fixed state, score, ε and D are linear in each other, so

  D = D₀ + w (D₁ − D₀)   is the denoiser of the score of   p₀(x)^{1−w} p₁(x)^w

at each level, up to normalisation. w = 0 gives p₀, w = 1 gives p₁, and w > 1 extrapolates.
Powers of diffused densities are not the diffusion of a power. So for w ∉ {0, 1} samples follow no
simple law.

| | D₁ | D₀ | outside `interval` |
|---|---|---|---|
| `classifier_free` (Ho & Salimans 2022; their w is w − 1 here) | conditional | not | D₁ |
| `autoguidance` (Karras et al. 2024) | the model | a weaker model | D₁ |
| `classifier` (Dhariwal & Nichol 2021) | D₀ + (σ²/α) ∇ log p(y given x) | the model | D₀ |

`interval` = (ρ_lo, ρ_hi] is a range of noise-to-signal ratios (Kynkäänniemi et al. 2024). Outside
of it only the model in the last column is called.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, conditions, predictions
from langevin_jax.paths import Path

__all__ = ["EVERYWHERE", "Weight", "autoguidance", "classifier", "classifier_free"]

Weight = float | jax.Array | Callable[[jax.Array], jax.Array | float]
# (x, ell) → D, or the value of a row.
_Level = Callable[[jax.Array, jax.Array], jax.Array]
# (x, ell, w) → the same, guided with weight w.
_Guided = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

EVERYWHERE = (0.0, np.inf)


def classifier_free(
    network: Callable[[jax.Array, jax.Array, Any], jax.Array], path: Path, condition: Any, *,
    null: Any = None, weight: Weight, prediction: str | predictions.Row = "x0",
    interval: tuple[float, float] = EVERYWHERE, rescale: float = 0.0,
) -> predictions.Denoiser:
  """Classifier-free guidance y₀ + w (y₁ − y₀), y₁ with the condition and y₀ with the null one.

  Inside the interval the network is called once, at twice the batch size. The two halves alternate,
  (x₁, x₁, x₂, x₂, …), so that a batch that is sharded over devices is not moved. Outside the
  interval, or if `weight` is the number 1 (or 0, without rescale), it is called at the batch size,
  with bitwise the result of the plain model.

  Args:
    network: (x, ell, condition) → row value, for whole batches, ell a scalar.
    path: defines the time t.
    condition: labels of any shape that leads the shape of x, () included. The remaining axes are
      those of one example. Or a pytree of arrays with one batch axis, such as a dict of named
      arrays (`conditions`). The network is called with x and this condition, or with twice as many
      examples along the first axis.
    null: what to move away from. For labels the label that means "no label", `num_classes` for the
      library's networks, or an array in their shape. Otherwise a tree in the structure of
      `condition`; None, for a dict of named arrays, is the one in which nothing is given.
    weight: w, a number, a traced scalar, or a function of ℓ.
    prediction: the row that the network was trained to predict.
    interval: (ρ_lo, ρ_hi], outside of which w = 1.
    rescale: φ ∈ [0, 1] of Lin et al. 2024, §3.4: y ← φ y std(y₁)/std(y) + (1 − φ) y, with standard
      deviations over the axes of one example, and y the network's own row.

  Raises:
    ValueError: a weight that is not finite, an empty interval, rescale outside [0, 1]; no null
      condition, or one in another structure; at the first call, a condition whose arrays do not
      lead the shape of x.
  """
  rescale = _values.number("rescale", rescale)
  if not 0.0 <= rescale <= 1.0:
    raise ValueError(f"rescale must lie in [0, 1], got {rescale}")
  if not callable(network):
    raise ValueError(f"network must be a function (x, ell, condition), got {network!r}")
  row = predictions.named(prediction)
  pair = _pair(_programs.unjitted(network), condition, null)

  def both(x, ell, w):
    given, free = pair.both(x, ell)
    guided = given + (w - 1.0) * (given - free)
    if rescale > 0.0:
      guided = _rescaled(guided, given, rescale, tuple(range(len(pair.batch), x.ndim)))
    return guided

  given = pair.given
  limits = {1.0: given} if rescale > 0.0 else {0.0: pair.free, 1.0: given}
  value = _guided(both, given, weight, interval, limits=limits)
  return predictions.denoiser(value, path, prediction=row)


class _Pair(NamedTuple):
  """A network with the condition of a batch, and the null condition of the same shapes.

  batch: the axes that lead those of one example.
  """

  network: Callable[[jax.Array, jax.Array, Any], jax.Array]
  condition: Any
  null: Any
  batch: tuple[int, ...]

  def given(self, x, ell):
    """The network's output with the condition."""
    self._check(x)
    return self.network(x, ell, self.condition)

  def free(self, x, ell):
    """The network's output with the null condition."""
    self._check(x)
    return self.network(x, ell, self.null)

  def both(self, x, ell):
    """(given, free) from one call at twice the batch size."""
    self._check(x)
    ndim = len(self.batch)
    batch = self.batch if ndim else (1,)
    x_b = x.reshape(*batch, *x.shape[ndim:])
    pairs = jax.tree.map(
        lambda a, b: jnp.stack([a, b], min(ndim, 1)).reshape(-1, *batch[1:], *a.shape[ndim:]),
        self.condition, self.null)
    x_twice = jnp.repeat(x_b, 2, axis=0)
    value = self.network(x_twice, ell, pairs)
    predictions.like_state(value, x_twice, "network")
    value = value.reshape(-1, 2, *x_b.shape[1:])
    return value[:, 0].reshape(x.shape), value[:, 1].reshape(x.shape)

  def _check(self, x):
    if self.batch != x.shape[:len(self.batch)]:
      what = "condition with arrays" if isinstance(self.condition, Mapping) else "labels"
      raise ValueError(f"{what} of shape {self.batch} must lead the shape {x.shape} of x")


def _pair(network: Callable, condition: Any, null: Any) -> _Pair:
  """The two conditions in one structure. Raises ValueError as `classifier_free`."""
  if isinstance(condition, Mapping):
    condition = conditions.complete(condition)
    null = conditions.null(condition) if null is None else conditions.complete(null)
  if null is None:
    raise ValueError("null must be given: the condition that stands for none, num_classes for the "
                     "labels of the library's networks")
  if jax.tree.structure(condition) == jax.tree.structure(0):
    labels = jnp.asarray(condition)
    return _Pair(network, labels, jnp.broadcast_to(jnp.asarray(null, labels.dtype), labels.shape),
                 labels.shape)
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  if shapes(null) != shapes(condition):
    raise ValueError(f"null must have the arrays of the condition, {shapes(condition)}, got "
                     f"{shapes(null)}")
  condition, null = jax.tree.map(jnp.asarray, (condition, null))
  return _Pair(network, condition, null, jnp.shape(jax.tree.leaves(condition)[0])[:1])


def autoguidance(
    denoise: predictions.Denoise, weak: predictions.Denoise, path: Path, *, weight: Weight,
    interval: tuple[float, float] = EVERYWHERE,
) -> predictions.Denoiser:
  """Guidance away from a weaker model: D_weak + w (D − D_weak).

  Args:
    denoise: the model along `path`.
    weak: a smaller, less trained or similarly corrupted model. Each is called once per step.
    path: defines the time t.
    weight: as in `classifier_free`. The number 1 never calls `weak`; 0 calls `weak` alone.
    interval: (ρ_lo, ρ_hi], outside of which `denoise` alone is called.

  Raises:
    ValueError: a weight that is not finite, or an empty interval.
  """
  good, bad = predictions.at_level(denoise, path), predictions.at_level(weak, path)

  def both(x, ell, w):
    given = good(x, ell)
    return given + (w - 1.0) * (given - bad(x, ell))

  at = _guided(both, good, weight, interval, limits={0.0: bad, 1.0: good})
  return predictions.Denoiser(at, path)


def classifier(
    denoise: predictions.Denoise, log_prob: Callable[[jax.Array, jax.Array], jax.Array],
    path: Path, *, weight: Weight = 1.0, interval: tuple[float, float] = EVERYWHERE,
) -> predictions.Denoiser:
  """Classifier guidance D + w (σ²/α) ∇ₓ log p(y | x) at unit scale.

  w = 1 is the conditional model, by Bayes' rule. At α = 0, where the state is independent of y and
  the term would be 0/0, it is left out.

  Args:
    denoise: the unconditional model along `path`.
    log_prob: (x, ell) → log p(y | x) of noisy states at unit scale, an array of any shape. The
      gradient of its sum is taken, so an entry must depend on one example alone.
    path: defines the time t.
    weight: w, a number, a traced scalar, or a function of ℓ.
    interval: (ρ_lo, ρ_hi], outside of which w = 0 and no gradient is computed.

  Raises:
    ValueError: a weight that is not finite, or an empty interval.
  """
  free = predictions.at_level(denoise, path)
  if not callable(log_prob):
    raise ValueError(f"log_prob must be a function (x, ell), got {log_prob!r}")

  def total(x, ell):
    value = log_prob(x, ell)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
      raise ValueError(f"log_prob must return floats, got {jnp.result_type(value)}")
    return jnp.sum(value)

  def both(x, ell, w):
    alpha, sigma, *_ = predictions.unit_frame(ell)
    noise_only = alpha == 0.0
    factor = jnp.where(noise_only, 0.0, sigma**2 / jnp.where(noise_only, 1.0, alpha))
    gradient = jax.grad(total)(x, ell)
    return free(x, ell) + w * factor * gradient

  return predictions.Denoiser(_guided(both, free, weight, interval, limits={0.0: free}), path)


def _guided(
    both: _Guided, outside: _Level, weight: Weight, interval: tuple[float, float], *,
    limits: dict[float, _Level],
) -> _Level:
  """The guided model inside the interval of ρ, `outside` elsewhere.

  Args:
    both: the guided model. outside: the model that is called outside the interval.
    limits: for some weights, a cheaper model that equals `both` with that weight.
  """
  ends = _values.numbers("interval", interval, "(rho_lo, rho_hi)")
  if len(ends) != 2:
    raise ValueError(f"interval must be (rho_lo, rho_hi), got {interval}")
  low, high = ends
  if not 0.0 <= low < high:
    raise ValueError(f"interval must satisfy 0 <= rho_lo < rho_hi, got {interval}")
  inside = _weighted(both, weight, limits)
  if inside is outside or (low, high) == EVERYWHERE:
    return inside
  with np.errstate(divide="ignore"):
    ell_high, ell_low = -np.log(np.float64(low)), -np.log(np.float64(high))

  def at(x, ell):
    # `cond`, not `where`, so that the model that is not needed is not evaluated.
    return jax.lax.cond((ell >= ell_low) & (ell < ell_high), inside, outside, x, ell)

  return at


def _weighted(both: _Guided, weight: Weight, limits: dict[float, _Level]) -> _Level:
  """`both` with its weight filled in.

  | weight | model |
  |---|---|
  | a Python number in `limits` | limits[weight] |
  | another number, or an array | both(x, ell, weight), the weight an argument of the program |
  | a function of ℓ | both(x, ell, weight(ell)) |
  """
  if callable(weight):
    weigh = _values.in_jax("weight", weight)
    return lambda x, ell: both(x, ell, jnp.asarray(weigh(ell), x.dtype))
  known = _values.concrete(weight)
  if known is not None and (known.ndim or known.dtype.kind not in "iuf" or (
      not np.isfinite(known))):
    raise ValueError(f"weight must be a finite number or a function of ell, got {weight}")
  if isinstance(weight, (int, float)) and float(weight) in limits:
    return limits[float(weight)]
  # An array, so that calls with other weights share one compiled program.
  w = weight if known is None else jnp.asarray(known, jnp.result_type(float))
  return lambda x, ell: both(x, ell, jnp.asarray(w, x.dtype))


def _rescaled(
    guided: jax.Array, given: jax.Array, phi: float, axes: tuple[int, ...]
) -> jax.Array:
  """φ y std(y₁)/std(y) + (1 − φ) y over `axes`; y itself where y or y₁ is constant."""
  var = lambda y: jnp.var(y, axis=axes, keepdims=True)
  flat = (var(guided) == 0.0) | (var(given) == 0.0)
  # Variances of 0 are replaced, because √ has no derivative there.
  ratio = jnp.sqrt(jnp.where(flat, 1.0, var(given)) / jnp.where(flat, 1.0, var(guided)))
  return guided * jnp.where(flat, 1.0, phi * ratio + (1.0 - phi))
