"""A lower bound on a network's score error that needs examples but no density.

The conditional mean of x₀ given the noisy x is the exact D*(x). So for every function φ of x

    E[(x₀ − D_θ(x))·φ(x)] = E[(D* − D_θ)·φ],   and   E‖D* − D_θ‖² ≥ 2 E[(x₀ − D_θ)·φ] − E‖φ‖²,

with equality at φ = D* − D_θ. The right side is the decrease of the denoising loss by the
correction φ. φ is a ridge regression on some examples, and the expectations use others
(cross-fitting), so the bound is not biased upwards. In nats it is ∫e^{2ℓ}(…)dℓ, a part of
KL(data‖model) of the η = 1 model (eq. 17; theory.md#likelihood). The integrand is
evaluated at the middle of each interval.

The bound holds for examples that were not in the training. The denoising loss of training examples
is computed too: its difference from that of held-out examples measures memorization.
"""

import functools
import itertools
import math

import jax
import numpy as np

from experiments.metrics.certificate import network

FOLDS = 4


def bounds(
    model: network.Model, ells: np.ndarray, *, examples: int, draws: int, waves: int, seed: int,
    change: tuple[float, float, float],
) -> dict[str, np.ndarray]:
  """Nats of every held-out example and interval; means over examples are the measures.

  Args:
    examples: the largest number of examples. draws: number of noise draws for every example and
      interval. waves: number of random features of each bandwidth. change: see `network.Model`.

  Returns:
    Arrays (n, intervals): bound; loss, E‖ε − ε_θ‖² dℓ; truth, the true score error, if it is
    known. And seen (m, intervals), the loss of training examples. A row is one example.
  """
  rng = np.random.default_rng(seed)
  pick = lambda x: rng.permutation(len(x))[:examples]
  held_out, train = pick(model.data.test), pick(model.data.train)
  nats: dict[str, list[np.ndarray]] = {}
  for i, (low, high) in enumerate(itertools.pairwise(ells)):
    rng, ell = np.random.default_rng([seed, i]), 0.5 * (low + high)
    rates = _rates(model, held_out, ell, draws, waves, rng, change)
    seen = _residuals(model, train, ell, draws, rng, change, held_out=False)[3]
    for name, rate in (rates | {"seen": np.sum(seen**2, axis=1)}).items():
      nats.setdefault(name, []).append(rate.reshape(-1, draws).mean(1) * (high - low))
  return {name: np.stack(columns, 1) for name, columns in nats.items()}


def _residuals(model, examples, ell, draws, rng, change, *, held_out=True):
  """(x, labels, D, e^ℓ(x₀ − D)) of `draws` noisy copies of examples; the last is flat (n, d)."""
  index = np.repeat(examples, draws)
  x_0 = (model.data.test if held_out else model.data.train)[index]
  labels = network.labels(model, held_out=held_out)[index]
  x = network.noised(rng, x_0, ell)
  denoised = network.denoised(model, x, ell, labels, change)
  return x, labels, denoised, math.exp(ell) * (x_0 - denoised).reshape(len(x), -1).astype(float)


def _rates(model, examples, ell, draws, waves, rng, change) -> dict[str, np.ndarray]:
  """Bound, loss and truth of every draw, (n,), in nats per unit of ℓ."""
  x, labels, denoised, residual = _residuals(model, examples, ell, draws, rng, change)
  project = network.projection(model.data)
  one_hot = np.eye(model.data.num_classes)[labels] if model.data.num_classes else (
      np.zeros((len(x), 0)))
  plain = np.concatenate([project(x), project(denoised), one_hot], axis=1)
  flat = lambda v: math.exp(ell) * np.asarray(v, float).reshape(len(x), -1)
  # If D is exact, no feature predicts the residual e^{ℓ}(x₀ − D).
  correction = fitted(
      np.concatenate([plain, random_waves(rng, project(x), waves)], 1), plain.shape[1], residual,
      np.repeat(np.arange(len(examples)) % FOLDS, draws),
      shared=np.stack([flat(denoised), flat(x), np.ones_like(residual)], axis=2))
  rates = {"bound": np.sum((2.0 * residual - correction) * correction, axis=1),
           "loss": np.sum(residual**2, axis=1)}
  if model.truth is not None:
    exact = np.asarray(_exact(model.truth, x, *network.frame(ell)))
    rates["truth"] = math.exp(2.0 * ell) * np.sum((exact - denoised).astype(float) ** 2, axis=1)
  return rates


@jax.jit
def _exact(truth, x, alpha, sigma):
  return truth.denoise(x, alpha, sigma)


def random_waves(rng: np.random.Generator, x: np.ndarray, count: int) -> np.ndarray:
  """Random Fourier features (n, 3 count) of three bandwidths (Rahimi and Recht 2007)."""
  scales = np.repeat([1.0, 2.5, 6.0], count) / math.sqrt(x.shape[1])
  frequencies = rng.standard_normal((x.shape[1], len(scales))) * scales
  return np.cos(x @ frequencies + 2.0 * math.pi * rng.random(len(scales)))


def fitted(
    features: np.ndarray, plain: int, target: np.ndarray, fold: np.ndarray, *, shared: np.ndarray
) -> np.ndarray:
  """Predictions (n, q) of the target by ridge regressions that are fitted on the other folds.

  There are four kinds of predictions: zero; the `shared` features, with one weight for all entries
  of the target, which few examples determine; the first `plain` features, with weights for every
  entry; all features. The kind and the ridge are chosen by cross-validation within the other folds.

  Args:
    features: (n, p). target: (n, q). fold: (n,) of 0 … FOLDS − 1. shared: (n, q, k).
  """
  spread = features.std(0)
  features = (features - features.mean(0)) / np.where(spread > 0.0, spread, 1.0)
  features = np.concatenate([np.ones((len(features), 1)), features], axis=1)
  columns = [plain + 1, features.shape[1]]
  rows = [fold == f for f in range(FOLDS)]
  gram = np.stack([features[r].T @ features[r] for r in rows])
  cross = np.stack([features[r].T @ target[r] for r in rows])
  count = np.array([r.sum() for r in rows])
  few_gram = np.stack([np.einsum("nqj,nqk->jk", shared[r], shared[r], optimize=True) for r in rows])
  few_cross = np.stack([np.einsum("nqk,nq->k", shared[r], target[r]) for r in rows])
  ridges = np.geomspace(1e-4, 3.0, 8)

  @functools.lru_cache
  def solved(folds):
    """The weights of each candidate, fitted to these folds: (k,) if shared, (p, q) otherwise."""
    g, c, n = (v[list(folds)].sum(0) for v in (gram, cross, count))
    few = np.linalg.pinv(few_gram[list(folds)].sum(0), hermitian=True) @ (
        few_cross[list(folds)].sum(0))
    candidates = [np.zeros_like(c), few]
    for k in columns:
      values, axes = np.linalg.eigh(g[:k, :k] / n)
      inner = axes.T @ (c[:k] / n)
      for ridge in ridges:
        weights = axes @ (inner / (np.maximum(values, 0.0) + ridge)[:, None])
        candidates.append(np.concatenate([weights, np.zeros((len(c) - k, c.shape[1]))]))
    return candidates

  def loss(weights, f):
    """‖target − features · weights‖² − ‖target‖² of a fold."""
    g, c = (few_gram, few_cross) if weights.ndim == 1 else (gram, cross)
    return np.sum(weights * (g[f] @ weights - 2.0 * c[f]))

  predicted = np.zeros_like(target)
  for f, row in enumerate(rows):
    others = tuple(g for g in range(FOLDS) if g != f)
    losses = sum(np.array([loss(w, v) for w in solved(tuple(g for g in others if g != v))])
                 for v in others)
    weights = solved(others)[int(np.argmin(losses))]
    predicted[row] = (shared if weights.ndim == 1 else features)[row] @ weights
  return predicted
