"""Time of sampling, guidance and likelihood, and memory of sampling; parts of `speed`.

The bare network is called equally often, each call on the output of the last one. It is timed in
two ways, a loop of jitted calls and one jitted scan, and the faster one is the reference.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.benchmarks import measure
from experiments.benchmarks.measure import Part, Row
from experiments.config import build
from experiments.configs import digits, mixture2d
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import guidance, likelihood, paths, samplers

CALLS = 25  # 25 steps of one call, 13 of two, 9 of three: the last step takes one
STEPS = 6  # RK4 steps of a likelihood, four calls each
# A convolution is slow in a loop of XLA's on CPU, so that the runner, too, dispatches one step.
_UNETS = {"network.channels": "32", "network.multipliers": "(1, 2)", "network.blocks": "1",
          "network.attention": "(4,)", "network.head_channels": "32",
          "training.steps_per_dispatch": "1"}
NETWORKS = {
    "digits DiT": digits.get_config(), "mixture2d MLP": mixture2d.get_config(),
    "digits U-Net": config_lib.override(digits.get_config(), {"network": "unet()"} | _UNETS),
    "digits EDM2": config_lib.override(digits.get_config(), {"network": "unet_edm2()"} | _UNETS)}


class Network(NamedTuple):
  """A run with random parameters: with its initial ones the output is zero."""

  run: assembly.Run
  params: dict
  labels: jax.Array
  shape: tuple[int, ...]


def _groups(*, few: bool) -> tuple[Mapping[str, samplers.Method], ...]:
  """All methods in groups of eight, or three of them."""
  one, two = samplers.multistep, samplers.singlestep
  if few:
    return ({"ddim, η = 1": samplers.ddim(1.0), "multistep 2": one(2), "heun": samplers.heun()},)
  return ({"ddim, η = 0": samplers.ddim(), "ddim, η = 1": samplers.ddim(1.0),
           "multistep 2": one(2), "multistep 3": one(3), "multistep 2 in α, η = 1": one(
               2, 1.0, variable="alpha"),
           "unipc 2": samplers.unipc(2), "unipc 3": samplers.unipc(3), "unipc 2, u in φ":
               samplers.unipc(2, prediction="velocity", variable="angle")},
          {"singlestep 2": two(2), "singlestep 3": two(3), "singlestep 2, η = 1": two(2, 1.0),
           "heun": samplers.heun(), "heun, churn": samplers.heun(4.0),
           "euler_maruyama": samplers.euler_maruyama(), "euler": samplers.euler(),
           "adams_bashforth 3": samplers.adams_bashforth(3)})


def _stages(name: str) -> int:
  """Network calls of a step; the last step makes one call."""
  return {"singlestep 2": 2, "singlestep 3": 3, "heun": 2}.get(name.partition(",")[0], 1)


def sampling(timer: measure.Timer) -> Part:
  """Compares `samplers.sample`, eager and jitted, with equally many calls of the network."""
  rows, seconds = [], {}
  for what, config in NETWORKS.items():
    network = _network(config)
    for i, methods in enumerate(_groups(few="unet" in config.network.name)):
      # The cost outside the network does not depend on which network it is.
      tasks = _bare(network)
      for name, method in methods.items():
        tasks |= _samplings(network, name, method)
      times = timer(tasks, f"sampling, {what}, {i + 1}")
      seconds[f"sampling {what} {i + 1}"] = times
      bare = _faster(times)
      rows += [Row(f"sampling, {how} ÷ {CALLS} bare calls, {what}, {name}",
                   measure.ratio(times[f"{how} {name}"], bare), "<= 1.05")
               for name in methods for how in ("eager", "jitted")]
  return Part(rows, seconds)


def guided(timer: measure.Timer) -> Part:
  """Compares a guided call with one call of the network at twice the batch size."""
  network = _network(digits.get_config())
  run, labels = network.run, network.labels
  x = jax.random.normal(jax.random.key(2), network.shape)
  row = build.prediction(run.config.objective)

  def call(params, x):
    apply = lambda x, ell, labels: run.apply(params, x, ell, labels)
    return guidance.classifier_free(
        apply, paths.vp(), labels, null=run.dataset.num_classes, weight=2.0,
        prediction=row).at(x, jnp.float32(0.5))

  cfg = jax.jit(call)
  twice = jax.jit(lambda params, x: run.apply(params, x, jnp.float32(0.5), jnp.tile(labels, 2)))
  both = jnp.concatenate([x, x])
  times = timer({"guided": measure.repeated(lambda: cfg(network.params, x)),
                 "bare": measure.repeated(lambda: twice(network.params, both))}, "guidance")
  return Part([Row("classifier-free guidance ÷ one bare call at double batch, digits DiT",
                   measure.ratio(times["guided"], times["bare"]), "<= 1.05")],
              {"guidance digits DiT": times})


def likelihoods(timer: measure.Timer) -> Part:
  """Compares `log_prob` (Hutchinson's divergence) with equally many calls of the network.

  A Jacobian-vector product costs two calls of the network and includes its value.
  """
  rows, seconds = [], {}
  for what, config in NETWORKS.items():
    network = _network(config)
    tasks = _bare(network, 4 * STEPS) | {"hutchinson": _hutchinson(network)}
    times = timer(tasks, f"likelihood, {what}")
    seconds[f"likelihood {what}"] = times
    bare = _faster(times)
    rows.append(Row(f"log_prob by Hutchinson ÷ {4 * STEPS} bare calls, {what}",
                    measure.ratio(times["hutchinson"], bare), "<= 3"))
  return Part(rows, seconds)


def memory() -> Part:
  """Peak memory of sampling with 10 and with 1000 steps, as the compiler reports it."""
  network = _network(digits.get_config())
  rows = []
  for name, make in (("ddim, η = 1", lambda: samplers.ddim(1.0)), ("heun", samplers.heun),
                     ("multistep 3", lambda: samplers.multistep(3)),
                     ("unipc 3", lambda: samplers.unipc(3)),
                     ("singlestep 3", lambda: samplers.singlestep(3)),
                     ("adams_bashforth 3", lambda: samplers.adams_bashforth(3))):
    size = {}
    for steps in (10, 1000):
      draw = _sampler(network, make(), steps)
      used = jax.jit(draw).lower(jax.random.key(0), network.params).compile().memory_analysis()
      size[steps] = (used.temp_size_in_bytes + used.output_size_in_bytes
                     + used.argument_size_in_bytes)
    rows.append(Row(f"memory, 1000 steps ÷ 10 steps, digits DiT, {name}",
                    measure.spread([size[1000] / size[10]]), "1 ± 0.01",
                    f"{size[10] / 2**20:.2f} and {size[1000] / 2**20:.2f} MiB"))
  return Part(rows, {})


def _network(config) -> Network:
  """The network of a config, with the shape of a training batch."""
  run = assembly.prepare(config)
  n = config.training.batch_size
  leaves, tree = jax.tree.flatten(run.init(jax.random.key(0)).params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = jax.tree.unflatten(tree, [
      leaf + 0.02 * jax.random.normal(key, leaf.shape)
      for key, leaf in zip(keys, leaves, strict=True)])
  return Network(run, params, jnp.asarray(assembly.even_labels(run, n)),
                 (n, *run.dataset.train.shape[1:]))


def _sampler(network: Network, method: samplers.Method, steps: int) -> Callable[..., jax.Array]:
  """A function (key, params) → samples, with an optional denoiser in place of the run's."""
  run = network.run

  def draw(key, params, denoise=None):
    denoise = denoise or drawing.denoiser(run, params, run.path, network.labels)
    return samplers.sample(key, denoise, run.path, shape=network.shape, method=method,
                           grid=samplers.karras(steps))

  return draw


def _samplings(network: Network, name: str, method: samplers.Method) -> dict[str, measure.Task]:
  steps = (CALLS - 1) // _stages(name) + 1
  draw, params, key = _sampler(network, method, steps), network.params, jax.random.key(0)
  denoise = drawing.denoiser(network.run, params, network.run.path, network.labels)
  jitted = jax.jit(draw)
  return {f"eager {name}": measure.repeated(lambda: draw(key, params, denoise)),
          f"jitted {name}": measure.repeated(lambda: jitted(key, params))}


def _hutchinson(network: Network) -> measure.Task:
  run = network.run
  x = jax.random.normal(jax.random.key(2), network.shape)
  log_prob = jax.jit(lambda params, x: likelihood.log_prob(
      jax.random.key(0), drawing.denoiser(run, params, run.path, network.labels), run.path, x,
      steps=STEPS, divergence="hutchinson", batch_axes=1))
  return measure.repeated(lambda: log_prob(network.params, x))


def _bare(network: Network, calls: int = CALLS) -> dict[str, measure.Task]:
  """Tasks of `calls` successive calls of the network."""
  run, params = network.run, network.params
  x = jax.random.normal(jax.random.key(2), network.shape)
  ells = jnp.linspace(-4.0, 4.0, calls)
  apply = lambda params, x, ell: run.apply(params, x, ell, network.labels)
  one = jax.jit(apply)
  scan = jax.jit(lambda params, x: jax.lax.scan(
      lambda x, ell: (apply(params, x, ell), None), x, ells)[0])
  each = list(ells)

  def loop():
    y = x
    for ell in each:
      y = one(params, y, ell)
    return y

  return {"bare loop": measure.repeated(loop),
          "bare scan": measure.repeated(lambda: scan(params, x))}


def _faster(times: Mapping[str, np.ndarray]) -> np.ndarray:
  """Times of the bare network, called in the way with the smaller median.

  The minimum in each round would be biased: the smaller of two noisy numbers is below both means.
  """
  return min(times["bare loop"], times["bare scan"], key=np.median)
