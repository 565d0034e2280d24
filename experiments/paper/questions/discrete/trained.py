"""A small trained model on the exact law: what duality and the bound say of its error."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import config
from experiments.config import adapters, build, calls
from experiments.paper.questions.discrete import laws, questions
from experiments.paper.questions.discrete.laws import Space
from langevin_jax.discrete import objectives, paths, samplers

NETWORK = "mlp(width=32, depth=2)"
ETAS = (0.0, 1.0, 2.0)
ENDS = 5.0, 0.05  # of the reverse runs, in ρ
_BATCH, _RATE = 256, 1e-2


class Network(NamedTuple):
  """A trained network in the place of a table."""

  apply: Any
  params: Any

  def denoise(self, x: jax.Array, alpha: jax.Array, path: paths.Path) -> jax.Array:
    """log D up to a constant, of states x (n, L) at one survival probability: (n, L, V)."""
    ell = jnp.full(len(x), jnp.log(alpha) - jnp.log1p(-alpha))
    return self.apply(self.params, x, ell, jnp.zeros(len(x), jnp.int32)).astype(ell.dtype)


def train(space: Space, seed: int, steps: int) -> Space:
  """The space with a network that has learned by `discrete.objectives.loss` from its samples."""
  call = calls.make(NETWORK, "network", "network")
  assert isinstance(call, config.Call)
  network: adapters.Network = build.network(call, space.x.shape[1:], 0, tokens=space.path)
  optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

  def loss(params, key):
    key_x, key = jax.random.split(key)
    x_0 = space.table.sample(key_x, _BATCH)
    return objectives.loss(key, lambda x, ell: network.apply(
        params, x, ell, jnp.zeros(len(x), jnp.int32)), x_0, space.path)[0]

  def step(state, key):
    params, moments = state
    updates, moments = optimizer.update(jax.grad(loss)(params, key), moments)
    return (optax.apply_updates(params, updates), moments), None

  @jax.jit
  def run(key):
    key_init, key = jax.random.split(key)
    params = network.init(key_init)
    keys = jax.random.split(key, steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

  return space._replace(model=Network(network.apply, run(jax.random.key(seed))))


def measure(space: Space, seed: int, fast: bool) -> dict[str, Any]:
  """The exact laws of a trained model's reverse runs, beside those of the exact D.

  Returns:
    etas, ends, counts, steps: of the training. level: KL(p_t‖law) at all levels for each count,
    (ETAS, n + 1), of STEP from p_T; exact: that of the exact D with the most steps. ell: of these
    levels. excess: the bound of −log P between the ends, less that of the exact D.
  """
  steps, counts = (1000, (32, 64)) if fast else (4000, (32, 64, 128))
  model = train(space, seed, steps)
  methods = {str(eta): samplers.step(eta) for eta in ETAS}
  runs, exact = laws.Runner(model, methods), laws.Runner(space, methods)
  found = [runs.run(n, ENDS) for n in counts]
  p = np.asarray(space.table.probabilities).ravel()
  ends = tuple(-np.log(ENDS))
  return {"network": NETWORK, "steps": steps, "etas": ETAS, "ends": ENDS, "counts": counts,
          "level": [kl for kl, _ in found], "ell": found[-1][1],
          "exact": exact.run(counts[-1], ENDS)[0],
          "excess": questions.bound(model, ends)(p, 1.0) - questions.bound(space, ends)(p, 1.0)}
