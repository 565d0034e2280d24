"""A lower bound on a network's score error that needs examples and no density.

Given the noisy x, x₀ averages to the exact D*(x). So for every function φ of x

    E[(x₀ − D_θ(x))·φ(x)] = E[(D* − D_θ)·φ],   and   E‖D* − D_θ‖² ≥ 2 E[(x₀ − D_θ)·φ] − E‖φ‖²,

with equality at φ = D* − D_θ. The right side is what the correction φ takes off the denoising loss.
φ is a ridge regression on some examples, and the expectations are over others (cross-fitting), so
the bound is not biased upwards. In nats it is ∫e^{2ℓ}(…)dℓ, a part of KL(data‖model) of the η = 1
model (eq. 17; theory.md#likelihood); the integrand is taken at the middle of each interval.

It holds for examples that the network has not seen. How much less the denoising loss is on those
that it was trained on is measured beside it: that is what the network remembers of them.
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
  """Nats of every held-out example and interval, whose means over examples are the measures.

  Args:
    examples: at the most. draws: of the noise, for every example and interval. waves: random
      features of each bandwidth. change: see `network.Model`.

  Returns:
    (n, intervals) each: bound; loss, E‖ε − ε_θ‖² dℓ; truth, the true score error, where it is
    known; and seen (m, intervals), the loss of training examples. A row is one example throughout.
  """
  rng = np.random.default_rng(seed)
  pick = lambda x: rng.permutation(len(x))[:examples]
  held_out, trained_on = pick(model.data.test), pick(model.data.train)
  found: dict[str, list[np.ndarray]] = {}
  for i, (low, high) in enumerate(itertools.pairwise(ells)):
    rng, ell = np.random.default_rng([seed, i]), 0.5 * (low + high)
    rates = _rates(model, held_out, ell, draws, waves, rng, change)
    seen = _residuals(model, trained_on, ell, draws, rng, change, held_out=False)[3]
    for name, each in (rates | {"seen": np.sum(seen**2, axis=1)}).items():
      found.setdefault(name, []).append(each.reshape(-1, draws).mean(1) * (high - low))
  return {name: np.stack(each, 1) for name, each in found.items()}


def _residuals(model, chosen, ell, draws, rng, change, *, held_out=True):
  """(x, labels, D, e^ℓ(x₀ − D)) of examples noised `draws` times; the last flat, in units of ε."""
  index = np.repeat(chosen, draws)
  x_0 = (model.data.test if held_out else model.data.train)[index]
  labels = network.labels(model, held_out=held_out)[index]
  x = network.noised(rng, x_0, ell)
  denoised = network.denoised(model, x, ell, labels, change)
  return x, labels, denoised, math.exp(ell) * (x_0 - denoised).reshape(len(x), -1).astype(float)


def _rates(model, chosen, ell, draws, waves, rng, change) -> dict[str, np.ndarray]:
  """Bound, loss and truth in nats per unit of ℓ, of every draw."""
  x, labels, denoised, residual = _residuals(model, chosen, ell, draws, rng, change)
  project = network.projection(model.data)
  one_hot = np.eye(model.data.num_classes)[labels] if model.data.num_classes else (
      np.zeros((len(x), 0)))
  plain = np.concatenate([project(x), project(denoised), one_hot], axis=1)
  flat = lambda v: math.exp(ell) * np.asarray(v, float).reshape(len(x), -1)
  # What is left of e^{ℓ}(x₀ − D) when D is right has no feature in it.
  correction = fitted(
      np.concatenate([plain, random_waves(rng, project(x), waves)], 1), plain.shape[1], residual,
      np.repeat(np.arange(len(chosen)) % FOLDS, draws),
      shared=np.stack([flat(denoised), flat(x), np.ones_like(residual)], axis=2))
  made = {"bound": np.sum((2.0 * residual - correction) * correction, axis=1),
          "loss": np.sum(residual**2, axis=1)}
  if model.truth is not None:
    exact = np.asarray(_exact(model.truth, x, *network.frame(ell)))
    made["truth"] = math.exp(2.0 * ell) * np.sum((exact - denoised).astype(float) ** 2, axis=1)
  return made


@jax.jit
def _exact(truth, x, alpha, sigma):
  return truth.denoise(x, alpha, sigma)


def random_waves(rng: np.random.Generator, x: np.ndarray, count: int) -> np.ndarray:
  """Random Fourier features of three bandwidths (Rahimi and Recht 2007), `count` of each."""
  scales = np.repeat([1.0, 2.5, 6.0], count) / math.sqrt(x.shape[1])
  frequencies = rng.standard_normal((x.shape[1], len(scales))) * scales
  return np.cos(x @ frequencies + 2.0 * math.pi * rng.random(len(scales)))


def fitted(
    features: np.ndarray, plain: int, target: np.ndarray, fold: np.ndarray, *, shared: np.ndarray
) -> np.ndarray:
  """Cross-fitted ridge: the target's part that features predict, by a fit on the other folds.

  The target is nothing, or a few `shared` features with one weight for all of its entries (which a
  few examples determine), or the first `plain` of the features with weights for every entry, or
  all of them, more or less stiffly: whatever predicts best across the folds that are fitted to.

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
  stiffness = np.geomspace(1e-4, 3.0, 8)

  @functools.lru_cache
  def solved(folds):
    """Weights of each candidate, fitted to these folds: (k,) of shared ones, (p, q) of others."""
    g, c, n = (v[list(folds)].sum(0) for v in (gram, cross, count))
    few = np.linalg.pinv(few_gram[list(folds)].sum(0), hermitian=True) @ (
        few_cross[list(folds)].sum(0))
    made = [np.zeros_like(c), few]
    for k in columns:
      values, axes = np.linalg.eigh(g[:k, :k] / n)
      inner = axes.T @ (c[:k] / n)
      for stiff in stiffness:
        weights = axes @ (inner / (np.maximum(values, 0.0) + stiff)[:, None])
        made.append(np.concatenate([weights, np.zeros((len(c) - k, c.shape[1]))]))
    return made

  def loss(weights, f):
    """‖target − features · weights‖² of a fold, but for ‖target‖²."""
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
