"""Conditional models of which the exact law is known: a density given a vector, and guidance.

The parts `vector` and `guidance` of `conditions`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_jax import guidance, mixtures, objectives, paths, predictions, samplers, training
from langevin_jax.networks import MLP
from langevin_jax.samplers import correctors

# x | c ~ ½ N(c + m, s²) + ½ N(c − m, s²) in the plane, m = .8 (cos c₁, sin c₁), over 1.1.
_SPREAD, _SCALE = 0.3, 1.1
# p(x) = Σₖ N(x; mₖ, sₖ²)/2 on the line. The first is the class that guidance asks for.
MEANS, STDS = (0.6, -0.8), (0.5, 0.7)


def vector(*, steps: int = 6000, batch: int = 512) -> float:
  """KL(p(x | c) ‖ model) in nats, on average over c, of an MLP that learns p(x) beside it.

  The KL of the reverse SDE of a model D is ∫ e^{2ℓ} E‖D* − D‖² dℓ (theory.md), D* exact.
  """
  network = MLP(width=96, depth=3)
  apply = lambda params, x, ell, condition: network.apply({"params": params}, x, ell, condition)
  params = _trained(network, apply, steps, batch)
  key = jax.random.key(0)

  @jax.jit
  def gap(k, ell):
    """E‖D* − D‖² of the conditional model at a level."""
    k_data, k_eps = jax.random.split(k)
    c, x_0 = _draw(k_data, 4096)
    alpha, sigma, *_ = predictions.unit_frame(ell)
    x = alpha * x_0 + sigma * jax.random.normal(k_eps, x_0.shape)
    model = predictions.denoiser(
        lambda x, ell: apply(params, x, ell, {"c": c}), paths.vp(), prediction="velocity")
    exact = jax.vmap(lambda x, c: _law(c).denoise(x, alpha, sigma))(x, c)
    return jnp.mean(jnp.sum((model.at(x, ell) - exact) ** 2, -1))

  ells = np.linspace(-4.0, 5.0, 91)
  gaps = np.array([gap(jax.random.fold_in(key, i), ell) for i, ell in enumerate(ells)])
  return float(np.trapezoid(gaps * np.exp(2.0 * ells), ells))


def _angle(c: jax.Array) -> jax.Array:
  return 0.8 * jnp.stack([jnp.cos(c[..., 0]), jnp.sin(c[..., 0])], -1)


def _draw(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
  """(c uniform on a square, x given c), (n, 2) each."""
  a, b, e = jax.random.split(key, 3)
  c = jax.random.uniform(a, (n, 2), minval=-1.0, maxval=1.0)
  sign = jax.random.rademacher(b, (n, 1), jnp.float32)
  return c, (c + sign * _angle(c) + _SPREAD * jax.random.normal(e, (n, 2))) / _SCALE


def _law(c: jax.Array) -> mixtures.Mixture:
  means = jnp.stack([c + _angle(c), c - _angle(c)]) / _SCALE
  return mixtures.Mixture(jnp.full(2, 0.5), means,
                          jnp.tile(jnp.eye(2) * (_SPREAD / _SCALE) ** 2, (2, 1, 1)))


def _trained(network: MLP, apply: Callable, steps: int, batch: int) -> Any:
  """The first average of the parameters after so many steps."""
  density = objectives.log_normal_rho()
  loss = training.diffusion_loss(apply, density=density, weight=objectives.flow_matching(density),
                                 prediction="velocity", label_dropout=0.1)
  optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
  averages, key = (training.averages.half_life(200.0),), jax.random.key(0)

  @jax.jit
  def train(state, keys):
    def step(state, k):
      c, x = _draw(k, batch)
      return training.train_step(state, key, (x, {"c": c}), loss=loss, optimizer=optimizer,
                                 averages=averages)[0], None

    return jax.lax.scan(step, state, keys)[0]

  c, x = _draw(key, batch)
  params = network.init(key, x, jnp.zeros(batch), {"c": c})["params"]
  state = train(training.init(params, optimizer), jax.random.split(jax.random.key(1), steps))
  return state.ema[0]


def guided_denoiser(weight: float, stds: tuple[float, float] = STDS) -> predictions.Denoiser:
  """Guidance of exact models, from p(x) to its first component."""
  of = lambda k: mixtures.Mixture(
      jnp.full(len(k), 1.0 / len(k)), jnp.array([[MEANS[i]] for i in k]),
      jnp.array([[[stds[i] ** 2]] for i in k]))
  both, first = of((0, 1)), of((0,))

  def network(x, ell, label):
    alpha, sigma, *_ = predictions.unit_frame(ell)
    return jnp.where(label.reshape(-1, 1, 1) == 0, first.denoise(x, alpha, sigma),
                     both.denoise(x, alpha, sigma))

  return guidance.classifier_free(
      network, paths.vp(), jnp.zeros((), jnp.int32), null=1, weight=weight)


def tilted_quantiles(weight: float, n: int) -> np.ndarray:
  """Quantiles (i + ½)/n of p(x)^{1−w} p(x | class)^w over its integral, by quadrature."""
  x = np.linspace(-4.0, 6.0, 200_001)
  parts = [np.exp(-0.5 * ((x - m) / s) ** 2) / s for m, s in zip(MEANS, STDS, strict=True)]
  log = weight * np.log(parts[0]) + (1.0 - weight) * np.log(0.5 * sum(parts))
  density = np.exp(log - log.max())
  cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
  return np.interp((np.arange(n) + 0.5) / n, cumulative / cumulative[-1], x)


def guided(*, weight: float = 3.0, n: int = 20_000, levels: int = 100) -> dict[str, float]:
  """W₁ of guided samples to the tilted target, with Langevin corrections at each level, and floor.
  """
  wanted = tilted_quantiles(weight, n)
  far = lambda x: float(np.abs(np.sort(np.ravel(x)) - wanted).mean())
  found = {}
  for corrections in (0, 1, 4, 16, 64):
    method = samplers.heun() if not corrections else samplers.predictor_corrector(
        samplers.heun(), correctors.midpoint(0.2), corrections)
    found[str(corrections)] = far(samplers.sample(
        jax.random.key(0), guided_denoiser(weight), paths.vp(), shape=(n, 1), method=method,
        grid=samplers.karras(levels, rho_min=0.005, rho_max=200.0)))
  rng = np.random.default_rng(0)
  return found | {"floor": far(tilted_quantiles(weight, 100 * n)[rng.integers(100 * n, size=n)])}
