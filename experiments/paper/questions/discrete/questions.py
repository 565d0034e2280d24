"""What of the paper's four questions carries over to a finite state space, with a number for each.

1. Reverse inverts forward: `measure._runs`. 2. ODE and SDE: jumps and memory of R_η. 3. Better than
a VAE: distances from an exact pair. 4. Maximum likelihood, and the equivalence of predictions.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.questions.discrete import laws
from experiments.paper.questions.discrete.laws import Space
from langevin_jax.discrete import objectives, paths, samplers, splitting

ETAS = (0.0, 0.5, 1.0, 2.0)
ENDS = 20.0, 0.05  # between which jumps are counted, in ρ
POWER = 0.8  # of D of the model that belongs to no law


def measure(spaces: dict[str, Space], fast: bool) -> dict[str, Any]:
  n = 32 if fast else 64
  each = lambda function, *args: [function(space, *args) for space in spaces.values()]
  return {"etas": ETAS, "power": POWER, "jumps": each(_jumps), "memory": each(_memory, n),
          "likelihood": each(_likelihood), "chain": each(_chain, (4, 8, 16, 32) if fast else (
              4, 8, 16, 32, 64, 128)), "vae": _vae(spaces["masked"]),
          "readings": each(_readings), "losses": _losses(spaces["masked"])}


def _nodes(low: float, high: float, panels: int = 24) -> tuple[np.ndarray, np.ndarray]:
  """Gauss–Legendre nodes and weights, twelve a panel."""
  nodes, weights = np.polynomial.legendre.leggauss(12)
  edges = np.linspace(low, high, panels + 1)
  width = np.diff(edges)[:, None]
  return (edges[:-1, None] + width * (nodes + 1.0) / 2).ravel(), (width * weights / 2).ravel()


def _jumps(space: Space) -> dict[str, Any]:
  """Expected jumps of a position between the ends of runs: of R_η, (ETAS,), and of the forward
  process; and per unit of ℓ, (levels, ETAS)."""
  ells, weights = _nodes(*-np.log(ENDS))

  @jax.jit
  def rate(ell):
    level = laws.level(ell)
    x, log_d = jnp.asarray(space.x), space.log_denoised(level)
    there, back = splitting.unit_rates(x, log_d, level.alpha, level.sigma, space.path)
    p = space.marginal(level)
    # −log α falls by 1 − α per unit of ℓ.
    mean = lambda rates: level.sigma * p @ jnp.nan_to_num(rates).sum((1, 2)) / x.shape[1]
    return jnp.stack([mean(there), *(
        mean(splitting.reverse_rates(there, back, eta)) for eta in ETAS)])

  found = np.stack([rate(ell) for ell in ells])
  total = weights @ found
  return {"forward": total[0], "reverse": total[1:], "ells": ells, "rate": found[:, 1:],
          "kept": float(np.diff(1.0 / (1.0 + np.array(ENDS)))[0])}


def _memory(space: Space, n: int) -> dict[str, Any]:
  """Mutual information of the two ends of reverse processes, as a share of the data's entropy.

  By `n` and 2n steps of STEP, even in α from ρ = 1, and extrapolated to infinitely many. forward:
  that of the forward process, exactly.
  """
  step = jax.jit(lambda here, there, budget: space.step(
      space.log_denoised(here), here, there, budget))
  first = laws.level(0.0)
  start = np.asarray(space.marginal(first))
  clean = len(space.table.states)

  def shared(eta, n):
    alpha = np.linspace(0.5, 1.0, n + 1)
    chain = np.eye(len(start))
    for a, b in itertools.pairwise(alpha):
      # To the data only D is left, whatever the budget.
      budget = eta**2 * np.log(b * (1.0 - a) / (a * (1.0 - b))) if b < 1.0 else 0.0
      chain = chain @ step(_at(a), _at(b), budget)
    return _information(start[:, None] * np.asarray(chain))

  found = np.array([[shared(eta, k) for k in (n, 2 * n)] for eta in ETAS])
  kernel = paths.kernel(space.path, first.alpha, first.sigma)
  forward = np.asarray(laws.joint(kernel[space.table.states]))
  p = np.asarray(space.table.probabilities).ravel()
  entropy = space.table.entropy()
  return {"steps": n, "share": found[:, 1] / entropy,
          "limit": (2.0 * found[:, 1] - found[:, 0]) / entropy,
          "forward": _information(p[:, None] * forward) / entropy, "states": clean}


def _information(joint: np.ndarray) -> float:
  return float(laws.kl(joint.ravel(), np.outer(joint.sum(1), joint.sum(0)).ravel()))


def _likelihood(space: Space) -> dict[str, Any]:
  """The bound E[−log P(x₀)], summed and integrated, of three models.

  exact: of the exact D, less the entropy. other: of D of another law, less the cross-entropy of
  that law. none: of D^POWER, which belongs to no law; under masked noise also the cross-entropy of
  the law that unmasking one position at a time draws from, which the bound bounds.
  """
  p = np.asarray(space.table.probabilities).ravel()
  rng = np.random.default_rng(2)
  other = rng.dirichlet(np.ones(len(p)))
  law = laws.space("masked" if space.path.mask is not None else "uniform",
                   other.reshape(space.table.probabilities.shape))
  cross = lambda q: float(-p @ np.log(q))
  found = {"entropy": space.table.entropy(),
           "exact": _bound(space, space), "other": _bound(space, law), "cross": cross(other),
           "none": _bound(space, space, POWER)}
  if space.path.mask is not None:
    drawn = laws.unmasked(space, space.x.shape[1], POWER)
    found |= {"drawn": cross(drawn), "drawn_kl": float(laws.kl(p, drawn))}
  return found


def _bound(space: Space, model: Space, power: float = 1.0) -> float:
  """E[−log P(x₀)] ≤ ∫ E[rate] dℓ for x₀ of `space` and D of `model`, over all x₀ and x_t."""
  ells, weights = _nodes(-32.0, 32.0, 36)
  x, clean = jnp.asarray(space.x), jnp.asarray(space.table.states)
  p = space.table.probabilities.ravel()

  @jax.jit
  def mean_rate(ell):
    level = laws.level(ell)
    log_d = model.log_denoised(level, power)
    q = laws.joint(paths.kernel(space.path, level.alpha, level.sigma)[clean])  # (V^L, S^L)

    def given(x_0, law):
      rate = objectives.rate(x, jnp.broadcast_to(x_0, x.shape), log_d, level.alpha, level.sigma,
                             space.path)
      return jnp.sum(jnp.where(law > 0.0, law * rate, 0.0))

    return p @ jax.vmap(given)(clean, q)

  return float(sum(w * mean_rate(ell) for w, ell in zip(weights, ells, strict=True)))


def _at(alpha: float) -> samplers.Level:
  """The level of a survival probability, without ℓ."""
  return samplers.Level(None, None, jnp.asarray(alpha), jnp.asarray(1.0 - alpha))


def _chain(space: Space, counts: tuple[int, ...]) -> dict[str, Any]:
  """The chain of n steps as a VAE of n layers: its distance from an exact prior–posterior pair.

    Σ_i E_{x_t} KL(q(x_s | x_t)‖Π_j p_j(x_s | x_t)),   p_j the exact reversal of one position

  q is the reversal of the forward process, in which positions depend on each other.
  """
  @jax.jit
  def cost(here, there):
    p_t, p_s = space.marginal(here), space.marginal(there)
    x, keep = jnp.asarray(space.x), here.alpha / there.alpha
    forward = laws.joint(keep * paths.one_hot(x, space.path) + (1.0 - keep) * paths.base_law(
        space.path, x, p_t.dtype))  # (from s, to t)
    back = laws.joint(splitting.posterior(
        x, space.log_denoised(here), here.alpha, here.sigma, there.alpha, there.sigma, space.path))
    both = p_s[:, None] * forward
    ratio = both / jnp.where(both > 0.0, p_t[None] * back.T, 1.0)
    return jnp.sum(jnp.where(both > 0.0, both * jnp.log(jnp.where(both > 0.0, ratio, 1.0)), 0.0))

  total = [sum(float(cost(_at(a), _at(b))) for a, b in itertools.pairwise(
      np.linspace(0.0, 1.0, n + 1))) for n in counts]
  return {"counts": counts, "pair": np.array(total)}


def _vae(space: Space, steps: int = 2000) -> dict[str, Any]:
  """The best VAE with one latent of K values and a decoder of independent positions, by EM.

  Its encoder is free, so it is the posterior of its decoder, and what is left is KL(data‖model).
  """
  p, x = np.asarray(space.table.probabilities).ravel(), space.table.states
  vocabulary, length = space.path.vocabulary, x.shape[1]
  eye = np.eye(vocabulary)[x]  # (V^L, L, V)
  sizes, best = (1, 2, 3, 4), []
  for k in sizes:
    rng, runs = np.random.default_rng(3), 16
    weight = np.full((runs, k), 1.0 / k)
    decoder = rng.dirichlet(np.ones(vocabulary), size=(runs, k, length))
    for _ in range(steps if k > 1 else 2):
      parts = weight[:, :, None] * np.prod(
          decoder[:, :, np.arange(length), x], axis=-1)  # (runs, K, V^L)
      model = parts.sum(1)
      counts = p * parts / model[:, None]
      weight = counts.sum(-1)
      decoder = np.einsum("rkn,nlv->rklv", counts, eye) / weight[:, :, None, None]
    best.append(float(laws.kl(p, model).min()))
  return {"latents": sizes, "kl": np.array(best),
          "numbers": [k * length * (vocabulary - 1) + k - 1 for k in sizes],
          "free": vocabulary**length - 1}


def _readings(space: Space) -> dict[str, float]:
  """Residuals of one model read in several ways, at ℓ = 0.3.

  ratios: D from the ratios R(y) = p(x with x_i = y)/p(x), which score-entropy models predict, and
  R against those of the exact law. flow: STEP(h, 0) against x′ ~ δ_x + (α′ − α) u, u the velocity
  (D − δ_x)/(1 − α) of discrete flow matching. posterior: STEP(h, 0) against the posterior step of
  D3PM; under masked noise they are one.
  """
  here, there = laws.level(0.3), laws.level(0.9)
  x, size = jnp.asarray(space.x), len(space.path.base)
  log_d = space.log_denoised(here)
  d = np.exp(np.asarray(log_d))
  ratios = np.exp(np.asarray(splitting.log_ratios(x, log_d, here.alpha, here.sigma, space.path)))
  p = np.asarray(space.marginal(here))
  law = p.reshape((size,) * x.shape[1])
  true = np.stack([np.stack([np.moveaxis(law, i, -1)[tuple(np.delete(state, i))]
                             for i in range(len(state))]) for state in space.x]) / p[:, None, None]
  q = np.asarray(paths.kernel(space.path, here.alpha, here.sigma))  # (V, S)
  # R(y) = Σ_a D(a) q(y | a)/q(x_i | a) is linear in the D(a) from which x_i can come.
  worst = 0.0
  for n, i in np.ndindex(*space.x.shape):
    from_a = q[:, space.x[n, i]]
    able = from_a > 0.0
    found = np.zeros(len(from_a))
    found[able] = np.linalg.lstsq((q[able] / from_a[able, None]).T, ratios[n, i], rcond=None)[0]
    worst = max(worst, np.abs(found - d[n, i]).max())
  one_hot = np.eye(size)[space.x]
  clean = np.pad(d, ((0, 0), (0, 0), (0, size - d.shape[-1])))
  flow = one_hot + float(there.alpha - here.alpha) * (clean - one_hot) / float(here.sigma)
  numbers = (here.alpha, here.sigma, there.alpha, there.sigma)
  step = splitting.step(x, jnp.asarray(d), *numbers, 0.0, space.path)
  posterior = splitting.posterior(x, log_d, *numbers, space.path)
  return {"ratios": float(np.abs(ratios / true - 1.0).max()), "denoised": float(worst),
          "flow": float(np.abs(step - flow).max()),
          "posterior": float(jnp.abs(step - posterior).max())}


def _losses(space: Space) -> float:
  """Masked cross-entropy against the score entropy of the same D: largest difference of rates."""
  level = laws.level(0.3)
  log_d = np.asarray(space.log_denoised(level, POWER))
  alpha, sigma = float(level.alpha), float(level.sigma)
  worst = 0.0
  for x_0 in space.table.states:
    rate = objectives.rate(jnp.asarray(space.x), jnp.asarray(np.broadcast_to(x_0, space.x.shape)),
                           jnp.asarray(log_d), level.alpha, level.sigma, space.path)
    # R is α/(1 − α) at the clean token and 0 elsewhere; R̂ is α D/(1 − α).
    model, true = alpha / sigma * np.exp(log_d), alpha / sigma * np.eye(log_d.shape[-1])[x_0]
    model = np.broadcast_to(model, log_d.shape)
    gain = np.where(true > 0.0, true * np.log(np.maximum(true, 1e-300) / model), 0.0)
    masked = space.x == space.path.mask
    entropy = sigma * np.where(masked, (gain - true + model).sum(-1), 0.0).sum(-1)
    # Only states that noise can reach from x₀.
    able = np.all((space.x == x_0) | masked, axis=1)
    worst = max(worst, float(np.abs(np.asarray(rate) - entropy)[able].max()))
  return worst
