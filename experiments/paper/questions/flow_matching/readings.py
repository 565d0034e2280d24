"""Gradients of the losses of one network whose output is read as different predictions.

A reading is the linear map of Table 5. The loss is the library's with the maximum-likelihood
weight. The three losses of Table 6 are computed too, in the coordinates and time of their paths.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from langevin_jax import networks, objectives, paths, predictions

HEADS = ("score", "eps", "x0", "v", "velocity")
# The prediction of the network's output: well conditioned at every noise level.
_OUTPUT = "v"

Apply = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Float64MLP(nn.Module):
  """An MLP of (x, tanh(ℓ/4)) in float64. The library's MLP computes in float32."""

  @nn.compact
  def __call__(self, x: jax.Array, half_log_snr: jax.Array) -> jax.Array:
    h = jnp.concatenate([x, jnp.tanh(half_log_snr / 4.0)[:, None]], axis=1)
    for _ in range(2):
      h = nn.silu(nn.Dense(64, dtype=jnp.float64, param_dtype=jnp.float64)(h))
    return nn.Dense(x.shape[1], dtype=jnp.float64, param_dtype=jnp.float64)(h)


def differences(
    key: jax.Array, x_0: jax.Array, *, rho_min: float, rho_max: float, double: bool
) -> dict[str, float]:
  """‖∇L − ∇L_ε‖ / ‖∇L_ε‖ of each reading, at random parameters with the same levels and noise.

  Args:
    x_0: data at unit scale (n, 2).
    double: float64 with `Float64MLP`, including the losses of Table 6; otherwise float32 with the
      library's MLP.
  """
  key_init, key_last, key_drawn = jax.random.split(key, 3)
  network = Float64MLP() if double else networks.MLP(width=64, depth=3)
  rest = () if double else (jnp.zeros((len(x_0),), jnp.int32),)
  density = objectives.uniform_half_log_snr(rho_min=rho_min, rho_max=rho_max)
  drawn = objectives.corruption(key_drawn, x_0, density)
  apply = lambda params, x, ells: network.apply(params, x, ells, *rest)
  others = table_6(apply, x_0, drawn, density) if double else {}

  @jax.jit
  def gradients_of(key_init, key_last):
    params = network.init(key_init, x_0, drawn.half_log_snr, *rest)
    flat, restore = jax.flatten_util.ravel_pytree(params)
    # The library's output layer starts at zero, through which no gradient flows.
    flat = flat + 0.1 * jax.random.normal(key_last, flat.shape, flat.dtype)
    read = lambda head: jax.grad(
        lambda flat: reading(apply, restore(flat), head, x_0, drawn, density))(flat)
    return {**dict(zip(HEADS, jax.lax.map(read, jnp.arange(len(HEADS))), strict=True)),
            **{name: jax.grad(lambda flat, loss=loss: loss(restore(flat)))(flat)
               for name, loss in others.items()}}

  gradients = gradients_of(key_init, key_last)
  reference = np.asarray(gradients["eps"])
  return {name: float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))
          for name, gradient in gradients.items()}


def reading(
    apply: Apply, params: Any, head: jax.Array | int, x_0: jax.Array, drawn: objectives.Corruption,
    density: objectives.Density,
) -> jax.Array:
  """The library's loss of the function `apply` read as the `head`-th of `HEADS`."""
  row = lambda frame: jax.lax.switch(head, [predictions.named(name) for name in HEADS], frame)

  def read(value, x, ell):
    frame = predictions.unit_frame(ell)
    x_0, eps = predictions.solve(value, x, frame, predictions.named(_OUTPUT))
    a, b = row(frame)
    return a * x_0 + b * eps

  return objectives.corrupted_loss(
      lambda x, ells: jax.vmap(read)(apply(params, x, ells), x, ells), x_0, drawn,
      weight=objectives.likelihood(density), prediction=row)[0]


def table_6(
    apply: Apply, x_0: jax.Array, drawn: objectives.Corruption, density: objectives.Density
) -> dict[str, Callable[[Any], jax.Array]]:
  """The losses of Table 6, parameters → loss: VP score, VE-Karras noise, rectified-flow velocity.

  Each is ∫ L_t dt over the time of its path, with the same draws of ℓ: a draw has the weight
  |dt/dℓ| / π(ℓ).
  """
  def loss(params, path, head, weight):
    times = jax.vmap(path.time)(drawn.half_log_snr)

    def corrupt(x_0, eps, t):
      x_t = path.alpha(t) * x_0 + path.sigma(t) * eps
      return x_t, x_t / jnp.hypot(path.alpha(t), path.sigma(t))

    def one(value, x_0, eps, x_t, t, ell):
      size = lambda frame: jnp.hypot(frame.alpha, frame.sigma)
      output = lambda frame: (-frame.sigma / size(frame), frame.alpha / size(frame))
      guess = predictions.convert(value, x_t, t, path, source=output, target=head)
      a, b = predictions.named(head)(predictions.frame(path, t))
      slope = jax.jvp(path.time, (ell,), (jnp.ones_like(ell),))[1]
      squared = jnp.mean((a * x_0 + b * eps - guess) ** 2)
      return weight(t) * squared * jnp.abs(slope) / density.density(ell)

    x_t, x = jax.vmap(corrupt)(x_0, drawn.eps, times)
    values = apply(params, x, drawn.half_log_snr)
    return jnp.mean(jax.vmap(one)(values, x_0, drawn.eps, x_t, times, drawn.half_log_snr))

  return {
      "VP score": lambda params: loss(params, paths.vp(), "score", lambda t: 0.5),
      "VE-Karras noise": lambda params: loss(params, paths.ve(), "eps", lambda t: 1.0 / t),
      "rectified-flow velocity": lambda params: loss(
          params, paths.rectified_flow(), "velocity", lambda s: (1.0 - s) / s)}
