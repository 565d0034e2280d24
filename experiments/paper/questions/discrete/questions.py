"""What of the paper's four questions carries over to a finite state space, with a number for each.

1. Reverse inverts forward: `measure._runs`. 2. ODE and SDE: jumps and memory of R_η. 3. Better than
a VAE: distances from an exact pair. 4. Maximum likelihood, and the equivalence of predictions.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from experiments.paper.questions.discrete import laws
from experiments.paper.questions.discrete.laws import Space
from langevin_jax.discrete import mixtures, objectives, paths, samplers, splitting

ETAS = (0.0, 0.5, 1.0, 2.0)
ENDS = 20.0, 0.05  # between which jumps are counted, in ρ
MEMORY_END = 0.05
POWER = 0.8  # of D of the model that belongs to no law


def measure(spaces: dict[str, Space], fast: bool) -> dict[str, Any]:
  n = 8 if fast else 32
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
  """Expected jumps of a position between the ENDS: of the forward process, of R_η, (ETAS,), and of
  STEP at η = 0, which is discrete flow matching; and of R_η per unit of ℓ, (levels, ETAS)."""
  ells, weights = _nodes(*-np.log(ENDS))

  @jax.jit
  def rate(ell):
    level = laws.level(ell)
    x, log_d = jnp.asarray(space.x), space.log_denoised(level)
    there, back = splitting.unit_rates(x, log_d, level.alpha, level.sigma, space.path)
    p = space.marginal(level)
    stay = jnp.take_along_axis(jnp.pad(jnp.exp(log_d), ((0, 0), (0, 0), (0, 1))), x[..., None], -1)
    # −log α falls by 1 − α per unit of ℓ.
    mean = lambda rates: level.sigma * p @ jnp.nan_to_num(rates).sum((1, 2)) / x.shape[1]
    return jnp.stack([mean(there), mean(level.alpha * (1.0 - stay) / level.sigma), *(
        mean(splitting.reverse_rates(there, back, eta)) for eta in ETAS)])

  found = np.stack([rate(ell) for ell in ells])
  forward, flow, *reverse = weights @ found
  return {"forward": forward, "flow": flow, "reverse": np.array(reverse), "ells": ells,
          "rate": found[:, 2:], "kept": float(np.diff(1.0 / (1.0 + np.array(ENDS)))[0])}


def _memory(space: Space, n: int) -> dict[str, Any]:
  """Mutual information of the two ends, between ρ = 1 and MEMORY_END, over the entropy of the end.

  Of R_η, by n and 2n steps with the rates of their middle, extrapolated, (ETAS,); forward: that of
  the forward process, exactly.
  """
  end = -np.log(MEMORY_END)

  @jax.jit
  def rates(ell):
    level = laws.level(ell)
    x, log_d = jnp.asarray(space.x), space.log_denoised(level)
    there, back = splitting.unit_rates(x, log_d, level.alpha, level.sigma, space.path)
    return jnp.stack([level.sigma * splitting.reverse_rates(there, back, eta) for eta in ETAS])

  def shared(n):
    step, chains = end / n, np.stack([np.eye(len(space.x))] * len(ETAS))
    for i in range(n):
      matrices = [space.generator(each) for each in rates((i + 0.5) * step)]
      chains = chains @ linalg.expm(step * np.stack(matrices))
    return np.array([_information(start[:, None] * chain) for chain in chains])

  @jax.jit
  def forward():
    first, last = laws.level(0.0), laws.level(end)
    keep, x = first.alpha / last.alpha, jnp.asarray(space.x)
    return space.marginal(first), space.marginal(last), laws.joint(
        keep * paths.one_hot(x, space.path) + (1.0 - keep) * paths.base_law(space.path, x, float))

  start, clean, kernel = map(np.asarray, forward())
  coarse, fine = shared(n), shared(2 * n)
  entropy = -laws.kl(clean, np.ones_like(clean))
  return {"share": fine / entropy, "limit": (4.0 * fine - coarse) / (3.0 * entropy),
          "forward": _information(clean[:, None] * kernel) / entropy}


def _information(joint: np.ndarray) -> float:
  return float(laws.kl(joint.ravel(), np.outer(joint.sum(1), joint.sum(0)).ravel()))


def _likelihood(space: Space) -> dict[str, Any]:
  """The bound E[−log P(x₀)], summed and integrated, of three models.

  exact: of the exact D; entropy: of the data. other: of D of another law; cross: the cross-entropy
  of that law. none: of D^POWER, which belongs to no law; under masked noise drawn is the
  cross-entropy of the law that unmasking one position at a time draws from.
  """
  p = np.asarray(space.table.probabilities).ravel()
  other = np.random.default_rng(2).dirichlet(np.ones(len(p)))
  cross = lambda q: float(-p @ np.log(q))
  law_bound = bound(space)
  found = {"entropy": space.table.entropy(), "exact": law_bound(p, 1.0), "cross": cross(other),
           "other": law_bound(other, 1.0), "none": law_bound(p, POWER)}
  if space.path.mask is not None:
    found["drawn"] = cross(laws.unmasked(space, space.x.shape[1], POWER))
  return found


def bound(
    space: Space, ends: tuple[float, float] = (-32.0, 32.0)
) -> Callable[[np.ndarray, float], float]:
  """(law, power) → E[−log P(x₀)] ≤ ∫ E[rate] dℓ for D^power of another law, over all x₀ and x_t.

  Where the space has a model, D is the model's. ends: of the integral, in ℓ.
  """
  ells, weights = map(jnp.asarray, _nodes(*ends, 36))
  x, clean = jnp.asarray(space.x), jnp.asarray(space.table.states)
  p = space.table.probabilities.ravel()

  def mean_rate(ell, model, power):
    level = laws.level(ell)
    log_d = model.log_denoised(level, power)
    q = laws.joint(paths.kernel(space.path, level.alpha, level.sigma)[clean])  # (V^L, S^L)

    def given(x_0, law):
      rate = objectives.rate(x, jnp.broadcast_to(x_0, x.shape), log_d, level.alpha, level.sigma,
                             space.path)
      return jnp.sum(jnp.where(law > 0.0, law * rate, 0.0))

    return p @ jax.vmap(given)(clean, q)

  @jax.jit
  def integral(law, power):
    model = Space(mixtures.Table(law.reshape(space.table.probabilities.shape)), space.path,
                  space.model)
    return weights @ jax.lax.map(lambda ell: mean_rate(ell, model, power), ells)

  return lambda law, power: float(integral(law, power))


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

  ratios: R(y) = p(x with x_i = y)/p(x), which score-entropy models predict, from D against those of
  the law, where noise leads to x_i. denoised: D from the ratios. flow: STEP(h, 0) against
  δ_x + (α′ − α) u, u the velocity (D − δ_x)/(1 − α) of discrete flow matching. posterior: STEP(h,
  0) against the exact reversal of one position.
  """
  here, there = laws.level(0.3), laws.level(0.9)
  x, size = jnp.asarray(space.x), len(space.path.base)

  @jax.jit
  def read():
    log_d = space.log_denoised(here)
    numbers = (here.alpha, here.sigma, there.alpha, there.sigma)
    one_hot = paths.one_hot(x, space.path)
    clean = jnp.pad(jnp.exp(log_d), ((0, 0), (0, 0), (0, size - log_d.shape[-1])))
    flow = one_hot + (there.alpha - here.alpha) * (clean - one_hot) / here.sigma
    return (jnp.exp(log_d), jnp.exp(splitting.log_ratios(
        x, log_d, here.alpha, here.sigma, space.path)), space.marginal(here), flow,
        splitting.step(x, jnp.exp(log_d), *numbers, 0.0, space.path),
        splitting.posterior(x, log_d, *numbers, space.path))

  d, ratios, p, flow, step, posterior = map(np.asarray, read())
  law = p.reshape((size,) * x.shape[1])
  q = np.asarray(paths.kernel(space.path, here.alpha, here.sigma))  # (V, S)
  found = {"ratios": 0.0, "denoised": 0.0}
  for n, i in np.ndindex(*space.x.shape):
    if not space.path.base[space.x[n, i]]:
      continue  # a position that is not masked: no jump of the forward process ends there
    others = np.delete(space.x[n], i)
    true = np.moveaxis(law, i, -1)[tuple(others)] / p[n]
    found["ratios"] = max(found["ratios"], np.abs(ratios[n, i] / true - 1.0).max())
    # R(y) = Σ_a D(a) q(y | a)/q(x_i | a) is linear in D.
    solved = np.linalg.lstsq((q / q[:, space.x[n, i], None]).T, true, rcond=None)[0]
    found["denoised"] = max(found["denoised"], np.abs(solved - d[n, i]).max())
  return found | {"flow": np.abs(step - flow).max(), "posterior": np.abs(step - posterior).max()}


def _losses(space: Space) -> float:
  """Masked cross-entropy against the score entropy of the same D: largest difference of rates."""
  level, x = laws.level(0.3), jnp.asarray(space.x)
  masked = x == space.path.mask

  @jax.jit
  def difference(x_0):
    log_d = space.log_denoised(level, POWER)
    rate = objectives.rate(x, jnp.broadcast_to(x_0, x.shape), log_d, level.alpha, level.sigma,
                           space.path)
    # R is α/(1 − α) at the clean token and 0 elsewhere; R̂ is α D/(1 − α).
    scale = level.alpha / level.sigma
    true = jax.nn.one_hot(x_0, log_d.shape[-1], dtype=log_d.dtype)[None]
    bregman = scale * (-true * jnp.where(true > 0.0, log_d, 0.0) - true + jnp.exp(log_d))
    entropy = level.sigma * jnp.sum(jnp.where(masked, bregman.sum(-1), 0.0), axis=-1)
    # Only states that noise can reach from x₀.
    able = jnp.all((x == x_0[None]) | masked, axis=1)
    return jnp.max(jnp.where(able, jnp.abs(rate - entropy), 0.0))

  return max(float(difference(jnp.asarray(x_0))) for x_0 in space.table.states)
