"""An autoregressive transformer in the place of a run's masked diffusion, on the same text.

  python -m experiments.benchmarks.text --workdir=runs/characters --out=runs/bench/text.json

Width, depth, heads, steps, batches, optimizer and averages are those of the run, and so are the
held-out crops, of which it too sees nothing before their first token. Its likelihood is exact.
"""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from experiments.benchmarks import measure
from experiments.config import build, cli
from experiments.metrics import ngrams
from experiments.run import assembly, dispatches, records
from langevin_jax import training

_WORKDIR = flags.DEFINE_string("workdir", "", "A run of tokens, trained or not.")
_OUT = flags.DEFINE_string("out", "runs/bench/text.json", "Where the numbers go.")
_STEPS = flags.DEFINE_integer("steps", 0, "Steps at which it ends; those of the run if not given.")
_EVERY = flags.DEFINE_integer("every", 100, "Steps between two evaluations.")
_CROPS = 64  # evaluated at once


class Causal(nn.Module):
  """A transformer of pre-norm blocks in which a token attends to those before it."""

  vocabulary: int
  width: int
  depth: int
  heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Tokens (batch, length) → logits of each given those before it, (batch, length, V)."""
    length = x.shape[1]
    before = jnp.pad(x[:, :-1] + 1, ((0, 0), (1, 0)))  # 0 is the beginning
    h = nn.Embed(self.vocabulary + 1, self.width)(before)
    position = self.param("position", nn.initializers.normal(0.02), (length, self.width))
    h, mask = h + position[None], nn.make_causal_mask(x)
    for _ in range(self.depth):
      r = nn.LayerNorm()(h)
      h = h + nn.MultiHeadDotProductAttention(self.heads)(r, mask=mask)
      r = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(h)))
      h = h + nn.Dense(self.width)(r)
    return nn.Dense(self.vocabulary)(nn.LayerNorm()(h))


def causal_run(run: assembly.Run) -> assembly.Run:
  """The run with `Causal` in the place of its network, and −log p in the place of its loss."""
  network = run.config.network
  model = Causal(len(run.dataset.vocabulary), network["width"], network["depth"], network["heads"])
  apply = lambda params, x, ell, condition: model.apply({"params": params}, x)

  def init(key):
    params = model.init(key, jnp.zeros((1, *run.dataset.train.shape[1:]), jnp.int32))["params"]
    return training.init(params, run.optimizer, averages=len(run.averages))

  def value(params, x):
    nats = jnp.mean(losses(apply, params, x), axis=1)
    return jnp.mean(nats), {"half_log_snr": jnp.zeros(len(x)), "eps_error": nats}

  return run._replace(init=init, apply=apply,
                      loss=training.Loss(draw=lambda key, batch: batch[0], value=value))


def losses(apply, params, x: jax.Array) -> jax.Array:
  """−log p of each token (batch, length) given those before it, in nats."""
  log_p = jax.nn.log_softmax(apply(params, x, None, None))
  return -jnp.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = records.read_config(workdir)
  if config.network.name != "dit" or not build.is_discrete(build.path(config.path)):
    raise ValueError(f"--workdir {workdir} must be a run of tokens with the network dit")
  out = cli.out(_OUT.value, measure.is_report)
  assembly.configure_jax(config)
  run = causal_run(assembly.prepare(config))
  last = _STEPS.value or config.training.steps
  nats = jax.jit(lambda params, x: losses(run.apply, params, x))
  test, rows, begun = run.dataset.test, [], time.monotonic()
  state = assembly.start(run)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  for sent in dispatches.run_steps(run, state):
    if not (dispatches.passes(_EVERY.value, sent.start, sent.end) or sent.end >= last):
      continue
    seconds = time.monotonic() - begun
    found = np.concatenate([nats(sent.state.ema[0], test[i:i + _CROPS])
                            for i in range(0, len(test), _CROPS)])
    bits = ngrams.row("causal", "bits a token", found / math.log(2.0))
    rows.append({"step": sent.end, "seconds": round(seconds, 1), **bits.to_plain()})
    print(f"step {sent.end}: {bits.value:.4f} ± {bits.error:.4f} bits a token", flush=True)
    measure.write(out, {"machine": measure.machine(), "parameters": parameters, "rows": rows})
    if sent.end >= last:
      break
  return 0


if __name__ == "__main__":
  cli.run(main)
