"""Exact models, paths and laws that several test modules compare with."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from langevin_jax import mixtures, paths, predictions, samplers
from langevin_jax.samplers import levels, linear, staged

# Paths, mixtures and Gaussian laws of the tests of the library's rooms.

PATHS = {
    "vp": paths.vp(), "linear_vp": paths.linear_vp(), "cosine": paths.cosine(), "ve": paths.ve(),
    "geometric_ve": paths.geometric_ve(), "sub_vp": paths.sub_vp(),
    "rectified_flow": paths.rectified_flow(),
    "own_coefficients": paths.from_coefficients(
        lambda t: jnp.exp(-t), lambda t: t**1.5, t_min=0.0, t_max=3.0),
    "own_sde": paths.from_sde(
        lambda t: -1.0 - t, lambda t: 1.0 + jnp.sin(t) ** 2, t_min=0.0, t_max=2.0),
}
NAMED_PATHS = {name: path for name, path in PATHS.items() if not name.startswith("own")}
# The same paths for vectors of times, each function compiled once for all tests.
BATCHED = {
    name: path._replace(**{
        field: jax.jit(jax.vmap(getattr(path, field))) for field in path._fields
        if callable(getattr(path, field))})
    for name, path in PATHS.items()
}
# Paths of every kind, for what needs a path's functions alone; paths_test.py checks those of all.
FEW_PATHS = ("ve", "linear_vp", "rectified_flow", "own_sde")


def along_paths(function, **arguments):
  """{name: function(path, *arguments[name])} of paths by name, mapped over times, in one program.
  """
  return jax.tree.map(np.asarray, jax.jit(lambda arguments: {
      name: jax.vmap(functools.partial(function, PATHS[name]))(*given)
      for name, given in arguments.items()})(arguments))


# The mixture of theory.md#exact-models: weights (K,), means (K, d), standard deviations (K,).
LINE = np.array([0.35, 0.45, 0.2]), np.array([[-1.2], [0.4], [1.6]]), np.array([0.35, 0.25, 0.15])


def round_mixture(law, dtype=None) -> mixtures.Mixture:
  """Round Gaussians, weights (K,), means (K, d), standard deviations (K,), as a mixture."""
  weights, means, stds = (jnp.asarray(v, dtype) for v in law)
  eye = jnp.eye(means.shape[1], dtype=means.dtype)
  return mixtures.Mixture(weights, means, (stds**2)[:, None, None] * eye[None])


def round_parts(law, x, alpha, sigma):
  """log(w_k N(x; α m_k, V_k)), (..., K), and E[x₀ | x, k], (..., K, d), of round Gaussians.

  Elementwise in x (..., d), NumPy or JAX: it compiles in a fraction of the time of a `Mixture`.
  """
  xp = np if isinstance(x, np.ndarray) else jnp
  weights, means, stds = (xp.asarray(v, x.dtype) for v in law)
  lead = lambda v: v.reshape((1,) * (x.ndim - 1) + v.shape)
  var = alpha**2 * stds**2 + sigma**2
  offset = x[..., None, :] - lead(alpha * means)
  log_parts = (lead(xp.log(weights) - 0.5 * means.shape[1] * xp.log(2.0 * np.pi * var))
               - 0.5 * xp.sum(offset**2, -1) / lead(var))
  return log_parts, lead(means) + lead(alpha * stds**2 / var)[..., None] * offset


def round_law(law, x, alpha, sigma):
  """log p(x), (...), and D(x), (..., d), of round Gaussians, elementwise as `round_parts`."""
  xp = np if isinstance(x, np.ndarray) else jnp
  log_parts, estimates = round_parts(law, x, alpha, sigma)
  # Its derivative cancels. That of a maximum is 0/0 where a compiler rounds the two copies of an
  # entry differently.
  top = log_parts.max(-1, keepdims=True)
  top = top if xp is np else jax.lax.stop_gradient(top)
  r = xp.exp(log_parts - top)
  total = r.sum(-1, keepdims=True)
  return (top + xp.log(total))[..., 0], xp.sum((r / total)[..., None] * estimates, -2)


class RoundLaw(NamedTuple):
  """Round Gaussians with the functions of a `Mixture` that a ledger needs."""

  weights: Any
  means: Any
  stds: Any

  def log_prob(self, x, alpha, sigma):
    return round_law(self, x, alpha, sigma)[0]

  def denoise(self, x, alpha, sigma):
    return round_law(self, x, alpha, sigma)[1]


def round_denoiser(law, path) -> predictions.Denoiser:
  """The denoiser of round Gaussians along a path."""
  def at(x, ell):
    frame = predictions.unit_frame(ell)
    return round_law(law, x, frame.alpha, frame.sigma)[1]

  return predictions.Denoiser(at, path)


def gaussian_mean(mean, covariance, x, alpha, sigma):
  """D(x) of N(mean, covariance) data for x (..., d), by the eigenvectors of the covariance."""
  var, axes = np.linalg.eigh(covariance)
  var, axes, mean = (jnp.asarray(v, x.dtype) for v in (var, axes, mean))
  mean = jnp.broadcast_to(mean, x.shape)
  gain = jnp.broadcast_to(alpha * var / (alpha**2 * var + sigma**2), x.shape)
  return mean + (((x - alpha * mean) @ axes) * gain) @ axes.T


def gaussian_kl(mean, covariance, mean_1, covariance_1):
  """KL(N(mean, covariance) ‖ N(mean_1, covariance_1)), of vectors or of numbers."""
  covariance, covariance_1 = (np.atleast_2d(v) for v in (covariance, covariance_1))
  inverse, offset = np.linalg.inv(covariance_1), np.atleast_1d(np.subtract(mean_1, mean))
  return 0.5 * (np.trace(inverse @ covariance) + offset @ inverse @ offset - len(offset)
                + np.linalg.slogdet(covariance_1)[1] - np.linalg.slogdet(covariance)[1])


# For samplers, denoisers are functions (x, ell) at unit scale, elementwise: a tenth of the time of
# `mixtures` on many states. `line` is of `LINE`.
WEIGHTS, MEANS, STDS = (np.ravel(part) for part in LINE)


def line(x, ell):
  """D of the mixture."""
  alpha, sigma = predictions.unit_frame(ell)[:2]
  var = [alpha**2 * s**2 + sigma**2 for s in STDS]
  offset = [x - alpha * m for m in MEANS]
  r = jax.nn.softmax(jnp.stack([
      jnp.log(w) - 0.5 * jnp.log(v) - 0.5 * o**2 / v
      for w, v, o in zip(WEIGHTS, var, offset, strict=True)]), axis=0)
  return sum(r[k] * (MEANS[k] + alpha * STDS[k] ** 2 / var[k] * offset[k]) for k in range(3))


def gaussian(x, ell, var=0.3, mean=0.5):
  """D of N(mean, var)."""
  alpha, sigma = predictions.unit_frame(ell)[:2]
  return mean + alpha * var / (alpha**2 * var + sigma**2) * (x - alpha * mean)


def along(path, model=gaussian):
  """A model as a plain function of (x_t, t), which samplers do not recognise as path-free."""
  return lambda x_t, t: model(x_t / jnp.hypot(path.alpha(t), path.sigma(t)), path.half_log_snr(t))


def cdf(z, rho=0.0):
  """F_ρ(z) of the mixture blurred by ρ."""
  return sum(w * stats.norm.cdf(z, m, np.hypot(s, rho))
             for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))


def quantile(u, rho):
  """F_ρ⁻¹(u) of the mixture by 80 halvings."""
  low, high = np.full_like(u, -5 - 8 * rho), np.full_like(u, 5 + 8 * rho)
  for _ in range(80):
    middle = 0.5 * (low + high)
    below = cdf(middle, rho) < u
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return 0.5 * (low + high)


def shapes(network, shape):
  """The shapes of the parameters of a network of states (batch, *sides, channels)."""
  return jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros(shape), 0.0, jnp.zeros(shape[0], int))["params"]


def parameters(network, shape, scale=0.2):
  """Drawn rather than initialised: no gate is closed, and nothing is hidden behind one."""
  draw = np.random.default_rng(0).normal
  return jax.tree.map(
      lambda leaf: draw(scale=scale, size=leaf.shape).astype(leaf.dtype), shapes(network, shape))


def check_mirrored(network, params, shape):
  """Mirrored kernels and inputs give a mirrored output, and the inputs alone another one."""
  x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
  apply = jax.jit(lambda params, x: network.apply({"params": params}, x, 0.2, jnp.zeros(1, int)))
  mirrored = jax.tree.map(
      lambda leaf: np.flip(leaf, 0) if leaf.ndim == len(shape) else leaf, params)
  expected = np.flip(apply(params, x), 1)
  np.testing.assert_allclose(apply(mirrored, np.flip(x, 1)), expected, atol=1e-4)
  assert np.abs(np.asarray(apply(params, np.flip(x, 1))) - expected).max() > 1e-2


def check_rematerialised(network, params, *, stored, error):
  """`remat` changes neither output nor gradient, and stores less than a share `stored`.

  The programs of the output are the same text. Of the gradient, what is computed again is fused
  otherwise; the rounding of a sum is that of its terms, also where they cancel.

  error: of a leaf of the gradient, beside its largest entry. Images are (2, 8, 8, 1).
  """
  x = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
  output = lambda network, params: network.apply({"params": params}, x, 0.4, jnp.zeros(2, int))
  loss = lambda network: lambda params: jnp.sum(output(network, params) ** 2)
  size = lambda network: sum(leaf.size for leaf in jax.tree.leaves(
      jax.eval_shape(lambda p: jax.vjp(loss(network), p)[1], params)))
  remat = network.clone(remat=True)
  assert size(remat) < stored * size(network)
  assert len({jax.jit(functools.partial(output, each)).lower(params).as_text()
              for each in (remat, network)}) == 1
  got, expected = (jax.jit(jax.grad(loss(each)))(params) for each in (remat, network))
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=error * np.abs(b).max() + 1e-7 * largest), got, expected)


# As users compile, where the tests compile with little optimisation (conftest).
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def slope(errors, doublings):
  """Order of convergence: log₂ of the fall of an error over so many doublings of the steps."""
  return np.log2(errors[0] / errors[-1]) / doublings


# Samplers differ in the numbers of their plans. So one program runs many of them, on grids of any
# length, with the step that has every part: four slopes and a corrector, or three stages.
COMMON = {linear.Numbers: linear.linear_method(None, 1.0, history=3, corrects=True),
          staged.Stages: staged.staged_method(None, 3, 1.0, noisy=True)}


def common_numbers(numbers, n):
  """The numbers of a plan as those of the step in `COMMON`, with idle steps up to n."""
  def padded(values, *size, idle=0.0):
    """`values` (steps, *shape) as (n, *size): zeros in the axes, `idle` in the steps."""
    room = [(0, most - have) for most, have in zip(size, values.shape[1:], strict=True)]
    values = np.pad(values, [(0, 0), *room])
    return np.concatenate([values, np.full((n - len(values), *size), idle, values.dtype)])

  last = lambda values: np.concatenate([values, np.repeat(values[-1:], n - len(values), 0)])
  if isinstance(numbers, staged.Stages):
    stages = [(0, 0), (0, 3 - numbers.a.shape[1])]
    level = levels.Level(*(last(np.pad(v, stages, "edge")) for v in numbers.level))
    used = padded(numbers.used, 3, idle=False)
    used[:, 0] = True
    return staged.Stages(level, padded(numbers.m, idle=1.0), padded(numbers.c),
                         padded(numbers.a, 3, idle=1.0), padded(numbers.b, 3, 3), used)
  zero, one = np.zeros(len(numbers.a)), np.ones(len(numbers.a))
  p, q = (zero, one) if numbers.q is None else (numbers.p, numbers.q)
  fix, fixed = (zero[:, None], zero > 0) if numbers.fix is None else (numbers.fix, numbers.fixed)
  return linear.Numbers(
      levels.Level(*map(last, numbers.level)), padded(numbers.a, idle=1.0), padded(numbers.b, 4),
      padded(numbers.c), padded(p), padded(q), padded(fix, 4), padded(fixed, idle=False))


def run_plans(plans, x, model, noise):
  """States (plans, n, *shape) after each step of plans, all of one kind, of at most n steps.

  Args:
    x: first states (plans, *shape), at unit scale. model: (x, level) → D.
    noise: ξ of each step (n, *shape), the same for all plans.
  """
  step = COMMON[type(plans[0])].step
  init = COMMON[type(plans[0])].init
  numbers = jax.tree.map(lambda *v: np.stack(v), *(common_numbers(p, len(noise)) for p in plans))

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, None))
  def states(numbers, x, noise):
    def body(state, now):
      numbers, xi = now
      x, _, carry = step(lambda _: xi, *state, model, numbers)
      return (x, carry), x

    return jax.lax.scan(body, (x, init(x)), (numbers, noise))[1]

  return np.asarray(states(numbers, x, noise))


def run_step_by_step(method, plan, x, model, draw):
  """(states after each step, calls of the model) of a method, neither traced nor compiled.

  Args:
    plan: its numbers of n steps. draw: (step, i) → ξ.
  """
  calls, states = [], []

  def counted(x, level):
    calls.append(1)
    return model(x, level)

  with jax.disable_jit():
    carry = method.init(x)
    for step in range(len(jax.tree.leaves(plan)[0])):
      x, _, carry = method.step(functools.partial(draw, step), x, carry, counted,
                                jax.tree.map(lambda v, i=step: jnp.asarray(v[i]), plan))
      states.append(x)
  return states, len(calls)


def calls_of(method, path, steps):
  """How often a method calls its model on `steps` steps of a usual grid, the last to ρ = 0."""
  nodes = levels.place_levels(samplers.karras(steps)(path), path)
  return run_step_by_step(method, method.plan(nodes, path), jnp.ones((2, 2)),
                          lambda x, level: 0.5 * x, lambda *_: jnp.zeros((2, 2)))[1]
