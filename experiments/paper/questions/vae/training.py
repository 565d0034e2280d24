"""Training of VAEs on data blurred by ρ_min, several seeds in one program."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.run import progress
from langevin_jax import networks
from langevin_jax.networks import vae as vae_lib


def log_normal(x: jax.Array, normal: vae_lib.Normal) -> jax.Array:
  """log N(x; mean, e^{2 log_std}) of each example, summed over its axes."""
  gap = (x - normal.mean) * jnp.exp(-normal.log_std)
  return jnp.sum(-0.5 * (gap**2 + jnp.log(2.0 * jnp.pi)) - normal.log_std,
                 axis=tuple(range(1, x.ndim)))


def elbo(
    key: jax.Array, model: networks.VAE, params: Any, x: jax.Array, labels: jax.Array
) -> jax.Array:
  """E_q[log p(x | z)] − KL(q(z | x)‖N(0, I)) in nats, (n,), with one draw of z for each example.

  Reference: Kingma & Welling (2014), eq. 7 and appendix B.
  """
  q = model.apply({"params": params}, x, labels, method="encode")
  z = draw(key, q)
  kl = jnp.sum(0.5 * (q.mean**2 + jnp.exp(2.0 * q.log_std) - 1.0) - q.log_std, axis=1)
  return log_normal(x, model.apply({"params": params}, z, labels, method="decode")) - kl


def draw(key: jax.Array, normal: vae_lib.Normal) -> jax.Array:
  """A draw of each normal distribution of a batch."""
  return normal.mean + jnp.exp(normal.log_std) * jax.random.normal(key, normal.mean.shape)


def samples(
    key: jax.Array, model: networks.VAE, params: Any, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The decoder's mean and a draw of the decoder, for one latent per label; (n, *shape)."""
  key_z, key_x = jax.random.split(key)
  z = jax.random.normal(key_z, (len(labels), model.latent))
  p = model.apply({"params": params}, z, labels, method="decode")
  return p.mean, draw(key_x, p)


def train(
    keys: jax.Array, model: networks.VAE, x: np.ndarray, labels: np.ndarray, *,
    watched: tuple[np.ndarray, np.ndarray], rho_min: float, steps: int,
    batch_size: int = 512, learning_rate: float = 2e-3, every: int = 100,
) -> tuple[Any, dict[str, Any]]:
  """Trains with Adam, clipping, warm-up and cosine decay; each batch is drawn and blurred anew.

  A VAE overfits small data: the parameters with the best ELBO on `watched` are kept (early
  stopping).

  Args:
    keys: (seeds,).
    x, labels: (n, *shape) clean data in standard units, (n,) integers.
    watched: (x, labels) for early stopping, not trained on.
    rho_min: the model is of x + ρ_min ξ, ξ ~ N(0, I).
    every: the number of steps between two evaluations, a divisor of `steps`.

  Returns:
    The best parameters, with a leading axis of seeds, and facts for the report. `vae_elbo` and
    `vae_watched` (steps / every, seeds) are the ELBO in nats per example, in training and on
    `watched`; `vae_best` is the step of the best parameters.

  Raises:
    FloatingPointError: the loss is not finite.
  """
  schedule = optax.warmup_cosine_decay_schedule(
      0.1 * learning_rate, learning_rate, min(200, steps // 5), steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))
  data = jnp.asarray(x), jnp.asarray(labels)

  def loss(params, key, x, labels):
    key_blur, key_z = jax.random.split(key)
    x = x + rho_min * jax.random.normal(key_blur, x.shape)
    return -jnp.mean(elbo(key_z, model, params, x, labels))

  def step(key, carry, i):
    params, state = carry
    key_batch, key_loss = jax.random.split(jax.random.fold_in(key, i))
    index = jax.random.randint(key_batch, (batch_size,), 0, len(data[0]))
    value, gradient = jax.value_and_grad(loss)(params, key_loss, data[0][index], data[1][index])
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), -value

  @functools.partial(jax.jit, donate_argnums=1)
  @functools.partial(jax.vmap, in_axes=(0, 0, None))
  def stretch(keys, carry, first):
    (params, state), (best, most) = carry
    (params, state), values = jax.lax.scan(
        functools.partial(step, keys[0]), (params, state), first + jnp.arange(every))
    now = -loss(params, jax.random.fold_in(keys[1], first), *map(jnp.asarray, watched))
    best = jax.tree.map(lambda old, new: jnp.where(now > most, new, old), best, params)
    return ((params, state), (best, jnp.maximum(now, most))), (jnp.mean(values), now)

  @jax.jit
  @jax.vmap
  def start(key):
    params = model.init(key, data[0][:1], data[1][:1])["params"]
    return (params, optimizer.init(params)), (jax.tree.map(jnp.copy, params), -jnp.inf)

  keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
  carry, values = start(keys[:, 0]), []
  program = stretch.lower(keys[:, 1:], carry, jnp.int32(0)).compile()
  begun = time.monotonic()
  with progress.bar(steps, 0, f"{len(keys)} VAEs") as report:
    for first in range(0, steps, every):
      carry, value = program(keys[:, 1:], carry, jnp.int32(first))
      values.append(np.stack(value))
      if not np.isfinite(values[-1]).all():
        raise FloatingPointError(f"the ELBO of a VAE is {values[-1][0]} by step {first + every}: "
                                 f"lower its learning rate, {learning_rate:g}")
      report(first + every, f"ELBO {values[-1][0].mean():.3f}, held out {values[-1][1].mean():.3f}")
  params, (trained, held_out) = carry[1][0], np.stack(values, axis=1)
  count = lambda tree: sum(leaf[0].size for leaf in jax.tree.leaves(tree))
  return params, {
      "vae_parameters": count(params), "vae_batch": batch_size,
      "vae_decoder_parameters": count(params["decoder"]),
      "vae_seconds": (time.monotonic() - begun) / len(keys), "vae_elbo": trained,
      "vae_watched": held_out, "vae_best": every * (1 + held_out.argmax(0))}
