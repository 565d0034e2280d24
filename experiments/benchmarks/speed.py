"""Time of training, sampling and start, relative to the bare network and to PyTorch.

  python -m experiments.benchmarks.speed --out=runs/bench/speed.json

Each row is a ratio of two tasks that alternate (measure.py), with the shapes of
experiments/configs/digits.py and mixture2d.py, and of small U-Nets on digits. The table shows the
target of each ratio. The JSON file has all rounds and a description of the machine. Over 20 minutes
on 2 cores; `--only` selects parts.

The bare network is a hand-written loop. For training it computes the forward and backward pass and
the same optimizer on a fixed input and target. For sampling, guidance and likelihood
(speed_sampling.py) it makes the same number of jitted calls, each on the output of the last one.
"""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import config as config_lib
from experiments.benchmarks import dispatches, measure, speed_sampling, starts
from experiments.benchmarks.measure import Part, Row
from experiments.config import cli
from experiments.configs import digits
from experiments.run import assembly

_OUT = flags.DEFINE_string("out", "runs/bench/speed.json", "Where to write the numbers.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Number of rounds of each comparison.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Seconds of each task in each round.")
_ONLY = flags.DEFINE_list("only", [], "Parts to measure: train, flow_maps, sampling, guidance, "
                          "likelihood, memory, torch, import, start. Default: all.")


def main() -> int:
  assembly.configure_jax(digits.get_config())
  timer = measure.Timer(_REPEATS.value, _SECONDS.value)
  measure.report({
      "train": lambda: train(timer), "flow_maps": lambda: flow_maps(timer),
      "sampling": lambda: speed_sampling.sampling(timer),
      "guidance": lambda: speed_sampling.guided(timer),
      "likelihood": lambda: speed_sampling.likelihoods(timer), "memory": speed_sampling.memory,
      "torch": lambda: against_torch(timer), "import": lambda: imports(max(7, _REPEATS.value)),
      "start": lambda: starts.cold_and_warm(_REPEATS.value)}, only=_ONLY.value, out=_OUT.value)
  return 0


def train(timer: measure.Timer) -> Part:
  """Compares train_step with the forward pass, backward pass and optimizer of each network."""
  rows, seconds = [], {}
  for name, config in speed_sampling.NETWORKS.items():
    run = assembly.prepare(config)
    config = run.config.training
    devices = jax.devices()[:config.cpu_devices]
    times = timer({"train_step": dispatches.sharded(dispatches.on_devices(run, devices)),
                   "bare": _bare_step(run, devices)}, f"training, {name}")
    seconds[f"train {name}"] = times
    per = f"devices: {len(devices)}, steps a dispatch: {config.steps_per_dispatch}"
    rows.append(Row(f"train_step ÷ bare, {name} ({per})",
                    measure.ratio(times["train_step"], times["bare"]), "<= 1.05"))
  return Part(rows, seconds)


def flow_maps(timer: measure.Timer) -> Part:
  """Compares the training step of a flow map from data with that of an ordinary model."""
  plain = digits.get_config()
  tasks = {name: dispatches.sharded(assembly.prepare(
      plain if name == "ordinary" else
      config_lib.override(plain, {"objective.flow_map": f"{name}()"})))
      for name in ("ordinary", "semigroup", "eulerian", "lagrangian")}
  times = timer(tasks, "flow maps, digits DiT")
  return Part([Row(f"train_step of {name}() ÷ train_step, digits DiT",
                   measure.ratio(times[name], times["ordinary"]), "<= 2.2")
               for name in tasks if name != "ordinary"], {"flow maps digits DiT": times})


def against_torch(timer: measure.Timer) -> Part:
  """Compares the training step of digits with that of the same model in PyTorch.

  PyTorch's threads wait by spinning, which is faster on an idle machine, or asleep, which is faster
  on a busy one. Both are timed, and each round counts the faster one.
  """
  name = "PyTorch ÷ train_step, digits DiT"
  if importlib.util.find_spec("torch") is None:
    return Part([Row(name, None, ">= 1", "torch not installed (extra [bench])")], {})
  run = assembly.prepare(digits.get_config())
  config = run.config.training
  counts = sorted({1, config.cpu_devices})
  tasks = {f"jax {n}": dispatches.sharded(dispatches.on_devices(run, jax.devices()[:n]))
           for n in counts}
  with contextlib.ExitStack() as stack:
    for way, environment in (("torch", {}), ("torch asleep", {"OMP_WAIT_POLICY": "passive"})):
      ask = stack.enter_context(dispatches.answering(
          "experiments.benchmarks.torch_dit", json.dumps(_torch_setting(run)),
          environment=environment))
      tasks[way] = lambda n, ask=ask: ask(n * config.steps_per_dispatch)
    times = timer(tasks, "PyTorch, digits DiT")
  best = np.minimum(times["torch"], times["torch asleep"])
  return Part([Row(f"{name} (devices: {n})", measure.ratio(best, times[f"jax {n}"]),
                   ">= 1" if n == config.cpu_devices else "") for n in counts],
              {"torch digits DiT": times})


def imports(repeats: int) -> Part:
  """Times `import langevin_jax` after jax and flax, each time in a new process."""
  code = ("import time, jax, flax; start = time.perf_counter(); import langevin_jax; "
          "print(time.perf_counter() - start)")
  times = [float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True,
                                text=True).stdout) for _ in range(repeats)]
  return Part([Row("import langevin_jax after jax and flax, seconds", measure.spread(times),
                   "<= 0.3")], {"import": {"langevin_jax": times}})


def _bare_step(run: assembly.Run, devices: Sequence[jax.Device]) -> measure.Task:
  """A task of as many steps of the network and optimizer alone, on fixed inputs and targets."""
  many = run.config.training.steps_per_dispatch > 1

  def one(state, batch):
    params, opt_state = state
    x, ell, labels = batch
    error = lambda params: jnp.mean((run.apply(params, x, ell, labels) - x) ** 2)
    loss, gradient = jax.value_and_grad(error)(params)
    updates, opt_state = run.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  step = jax.jit(functools.partial(jax.lax.scan, one) if many else one, donate_argnums=0,
                 compiler_options=assembly.compiler_options(run))
  mesh = jax.make_mesh((len(devices),), ("data",), devices=devices,
                       axis_types=(jax.sharding.AxisType.Auto,))
  place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  start = jax.jit(run.init, out_shardings=place())(jax.random.key(0))
  x, labels = dispatches.stacked(run)
  ell = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
  batch = jax.device_put((x, ell, labels), place(*[None] * many, "data"))
  return dispatches.under_way(lambda state: step(state, batch), (start.params, start.opt_state))


def _torch_setting(run: assembly.Run) -> dict:
  """The fields of `torch_dit.Setting` for the shapes and the optimizer of a run."""
  config, optimizer = run.config, run.config.training.optimizer
  height, width_pixels, channels = run.dataset.train.shape[1:]
  return {
      "height": height, "width_pixels": width_pixels, "channels": channels,
      "num_classes": run.dataset.num_classes, "threads": os.cpu_count(),
      **{name: config.network[name] for name in ("patch_size", "width", "depth", "heads")},
      **{name: getattr(config.training, name) for name in (
          "batch_size", "learning_rate", "gradient_clip", "label_dropout")},
      "beta_2": optimizer["b2"], "weight_decay": optimizer["weight_decay"],
      "ema_half_life_steps": config.training.ema_half_life_steps[0]}


if __name__ == "__main__":
  cli.run(main)
