"""Guidance: denoisers made of denoisers, for samplers, likelihood and inpainting alike.

Everything is said of the denoised estimate D at unit scale (α² + σ² = 1) and the level ℓ, so a
guided model knows no path either. Scores, ε and D are linear in each other at a fixed state, so

  D = D₁ + (w − 1)(D₁ − D₀) = D₀ + w (D₁ − D₀)   is the score of   p₀(x)^{1−w} p₁(x)^w

at every level, up to normalisation: w = 0 is p₀, w = 1 is p₁, w > 1 goes beyond p₁. The powers of
diffused densities are not the diffusion of a power: for w ∉ {0, 1} samples follow no simple law.

| | D₁ | D₀ |
|---|---|---|
| `classifier_free` (Ho & Salimans 2022; their w is w − 1 here) | given the label | not given it |
| `autoguidance` (Karras et al. 2024) | the model | a weaker one |
| `classifier` (Dhariwal & Nichol 2021) | D₀ + (σ²/α) ∇ log p(y | x) | the model |

Outside `interval` = (ρ_lo, ρ_hi], noise-to-signal ratios (Kynkäänniemi et al. 2024), D₁ is called
alone for the first two, and D₀ for the third: nothing is computed that is not used.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, predictions
from langevin_jax.paths import Path

Weight = float | jax.Array | Callable[[jax.Array], jax.Array | float]
Level = Callable[[jax.Array, jax.Array], jax.Array]  # (x, ell) → D or a row's value

EVERYWHERE = (0.0, np.inf)


def classifier_free(
    network: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], path: Path,
    labels: jax.Array, *, null_label: int | jax.Array, weight: Weight,
    prediction: str | predictions.Row = "x0", interval: tuple[float, float] = EVERYWHERE,
    rescale: float = 0.0,
) -> predictions.Denoiser:
  """Classifier-free guidance y₀ + w (y₁ − y₀), one call at double batch inside the interval.

  The two halves ride as neighbours, (x₁, x₁, x₂, x₂, …), so that a batch that is sharded over
  devices stays where it is. Outside the interval, and everywhere if `weight` is the number 1 (or 0,
  without rescale), one half is called, at single batch: the plain model, bit for bit.

  Args:
    network: (x, ell, labels) → row value, whole batches, ell a scalar.
    path: the path along which `t` runs.
    labels: of any shape that leads x's, () included; what remains of x is one example. The network
      is given x as it is with these labels, or twice as many along the first axis.
    null_label: what stands for no label, `num_classes` for the library's networks; an array of
      the labels' shape gives each example another class to move away from.
    weight: w, a number, a traced scalar, or a function of ℓ.
    prediction: the row that the network was trained to predict.
    interval: (ρ_lo, ρ_hi], outside of which w = 1.
    rescale: φ ∈ [0, 1] of Lin et al. 2024, §3.4: y ← φ y std(y₁)/std(y) + (1 − φ) y, the
      standard deviations over the axes of one example, y the network's own row.

  Raises:
    ValueError: a weight that is not finite, an empty interval, rescale outside [0, 1]; at the
      first call, labels that do not lead x's shape.
  """
  if not 0.0 <= rescale <= 1.0:
    raise ValueError(f"rescale must lie in [0, 1], got {rescale}")
  row, network = predictions.named(prediction), _programs.unjitted(network)
  labels = jnp.asarray(labels)
  null = jnp.broadcast_to(jnp.asarray(null_label, labels.dtype), labels.shape)
  batch = labels.shape if labels.ndim else (1,)

  def leads(x):
    if labels.shape != x.shape[:labels.ndim]:
      raise ValueError(f"labels of shape {labels.shape} must lead the shape {x.shape} of x")

  def alone(labels):
    def value(x, ell):
      leads(x)
      return network(x, ell, labels)

    return value

  def both(x, ell, w):
    leads(x)
    x_b = x.reshape(*batch, *x.shape[labels.ndim:])
    pairs = jnp.stack([labels, null], min(labels.ndim, 1)).reshape(-1, *batch[1:])
    value = network(jnp.repeat(x_b, 2, axis=0), ell, pairs).reshape(-1, 2, *x_b.shape[1:])
    given, free = value[:, 0].reshape(x.shape), value[:, 1].reshape(x.shape)
    guided = given + (w - 1.0) * (given - free)
    if rescale > 0.0:
      guided = _rescaled(guided, given, rescale, tuple(range(labels.ndim, x.ndim)))
    return guided

  given = alone(labels)
  limits = {1.0: given} if rescale > 0.0 else {0.0: alone(null), 1.0: given}
  value = _guided(both, given, weight, interval, limits=limits)
  return predictions.denoiser(value, path, prediction=row)


def autoguidance(
    denoise: predictions.Denoise, weak: predictions.Denoise, path: Path, *, weight: Weight,
    interval: tuple[float, float] = EVERYWHERE,
) -> predictions.Denoiser:
  """D_weak + w (D − D_weak): away from a weaker model's errors, or from any other model.

  Args:
    denoise, weak: models along `path`; the weak one is smaller, trained for less time, or corrupted
      in the same way as the other. Each is called once, and `denoise` alone outside the interval.
    weight, interval: as in `classifier_free`; the number 1 never calls `weak`, and 0 only `weak`.

  Raises:
    ValueError: a weight that is not finite, an empty interval.
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
  """D + w (σ²/α) ∇ₓ log p(y | x), at unit scale: w = 1 is the conditional model, by Bayes' rule.

  At α = 0 the state says nothing of y and the term, 0/0 there, is left out.

  Args:
    denoise: the unconditional model along `path`.
    log_prob: (x, ell) → log p(y | x) of noisy states at unit scale, of any shape: entries of one
      example must depend on that example alone, since the gradient is of their sum.
    weight: w, a number, a traced scalar, or a function of ℓ.
    interval: (ρ_lo, ρ_hi], outside of which w = 0 and no gradient is taken.

  Raises:
    ValueError: a weight that is not finite, an empty interval.
  """
  free = predictions.at_level(denoise, path)

  def both(x, ell, w):
    alpha, sigma, *_ = predictions.unit_frame(ell)
    noise_only = alpha == 0.0
    factor = jnp.where(noise_only, 0.0, sigma**2 / jnp.where(noise_only, 1.0, alpha))
    gradient = jax.grad(lambda x: jnp.sum(log_prob(x, ell)))(x)
    return free(x, ell) + w * factor * gradient

  return predictions.Denoiser(_guided(both, free, weight, interval, limits={0.0: free}), path)


def _guided(
    both: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], outside: Level, weight: Weight,
    interval: tuple[float, float], *, limits: dict[float, Level],
) -> Level:
  """`both(x, ell, w)` inside the interval, `outside` elsewhere.

  `limits` are what `both` is where the weight is that very number, without its second call.
  """
  low, high = interval
  if not 0.0 <= low < high:
    raise ValueError(f"interval must satisfy 0 <= rho_lo < rho_hi, got {interval}")
  inside = lambda x, ell: both(
      x, ell, jnp.asarray(weight(ell) if callable(weight) else weight, x.dtype))
  known = None if callable(weight) else _programs.concrete(weight)
  if known is not None and (known.ndim or not np.isfinite(known)):
    raise ValueError(f"weight must be a finite number or a function of ell, got {weight}")
  if isinstance(weight, (int, float)) and float(weight) in limits:
    inside = limits[float(weight)]
  elif known is not None:
    # An array, so that another weight is another argument of the same program.
    weight = jnp.asarray(known, jnp.result_type(float))
  if inside is outside or (low, high) == EVERYWHERE:
    return inside
  with np.errstate(divide="ignore"):
    ell_high, ell_low = -np.log(np.float64(low)), -np.log(np.float64(high))

  def at(x, ell):
    # A branch, not a choice between two results: what is not guided must not pay for it.
    return jax.lax.cond((ell >= ell_low) & (ell < ell_high), inside, outside, x, ell)

  return at


def _rescaled(guided, given, phi, axes):
  """φ y std(y₁)/std(y) + (1 − φ) y over `axes`; y itself where y or y₁ is constant."""
  var = lambda y: jnp.var(y, axis=axes, keepdims=True)
  flat = (var(guided) == 0.0) | (var(given) == 0.0)
  # The root of 0 has no derivative: where either is constant there is nothing to rescale.
  ratio = jnp.sqrt(jnp.where(flat, 1.0, var(given)) / jnp.where(flat, 1.0, var(guided)))
  return guided * jnp.where(flat, 1.0, phi * ratio + (1.0 - phi))
