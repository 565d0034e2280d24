"""The U-Net and the DiT beside diffusers' with the same weights: forward pass and training step.

  python -m experiments.benchmarks.imported --out=runs/bench/imported.json

The weights are imported as `experiments.convert` does; a row has the largest relative difference
between the outputs. Times are ratios of tasks that alternate (measure.py), ours ÷ PyTorch's in
eager mode, in float32 and in bfloat16 (autocast there). Each side uses all cores: ours by its
threads, or by as many devices as there are cores where that is faster.
"""

import contextlib
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments.benchmarks import dispatches, measure
from experiments.benchmarks.measure import Part, Row
from experiments.config import cli
from experiments.pretrained import imported
from experiments.run import assembly, meshes, parameters
from langevin_jax.training import shardings

# Kind → wanted: at most this.
WANTED = {"unet": 1.25, "dit": 1.0}
BATCH = 32
_TORCH = "experiments.benchmarks.torch_images"


def main() -> int:
  chosen = flags.FLAGS
  cores = os.cpu_count() or 1
  jax.config.update("jax_num_cpu_devices", cores)
  assembly.keep_compiled()
  timer = measure.Timer(chosen.repeats, chosen.seconds)
  with tempfile.TemporaryDirectory() as folder:
    measure.report({kind: lambda kind=kind: compare(kind, pathlib.Path(folder) / kind, timer, cores)
                    for kind in WANTED}, only=chosen.only, out=chosen.out)
  return 0


def compare(kind: str, folder: pathlib.Path, timer: measure.Timer, cores: int) -> Part:
  """The rows of one network."""
  measure.call("benchmarks.torch_images", "make", kind, str(folder))
  network, weights = imported.read(folder, "")
  config, run = imported.run(network, None)
  source = imported.fill(run, network, weights)
  state, _ = parameters.start_from(run, source)
  rows = [Row(f"{kind}, {imported.count(source):,} parameters: relative difference of outputs",
              measure.spread([_difference(run, state.params, folder)]), "<= 1e-4")]
  batch = jax.random.normal(jax.random.key(1), (BATCH, *network.shape)), jnp.arange(BATCH) % 10
  seconds = {}
  for dtype in ("float32", "bfloat16"):
    config = config_lib.override(config, {
        "network.dtype": dtype, "training.batch_size": BATCH, "training.learning_rate": 1e-4})
    devices = {n: jax.devices()[:n] for n in sorted({1, cores})}
    runs = {n: assembly.assemble(config, network.shape, network.num_classes,
                                 meshes.make(config.mesh, some)) for n, some in devices.items()}
    for task in ("forward", "train"):
      make = {"forward": _forward, "train": _train}[task]
      ours = {f"jax {n}": make(run, batch) for n, run in runs.items()}
      with contextlib.ExitStack() as stack:
        theirs = {way: stack.enter_context(dispatches.answering(
            _TORCH, task, kind, str(folder), dtype, str(cores), str(BATCH),
            environment=environment))
                  for way, environment in (("torch", {}),
                                           ("torch asleep", {"OMP_WAIT_POLICY": "passive"}))}
        times = timer(ours | theirs, f"{kind}, {task}, {dtype}")
      seconds[f"{kind} {task} {dtype}"] = times
      best = [np.min([times[name] for name in names], axis=0) for names in (ours, theirs)]
      rows.append(Row(f"{kind}, {task}, {dtype}: ours ÷ PyTorch", measure.ratio(*best),
                      f"<= {WANTED[kind]}"))
  return Part(rows, seconds)


def _difference(run: assembly.Run, params, folder: pathlib.Path) -> float:
  """max|y − y′| ÷ max|y| of our outputs y and those in the folder, at the same timesteps."""
  values = np.load(folder / "values.npz")
  kept = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))[values["t"]]
  ell = 0.5 * np.log(kept / (1.0 - kept))
  x = np.moveaxis(values["x"], 1, -1)
  y = run.apply(params, jnp.asarray(x), jnp.asarray(ell, jnp.float32), values["labels"])
  exact = np.moveaxis(values["y"], 1, -1)
  return float(np.max(np.abs(y - exact)) / np.max(np.abs(exact)))


def _forward(run: assembly.Run, batch: tuple[jax.Array, jax.Array]) -> measure.Task:
  """A task of n calls of the network."""
  call = jax.jit(lambda params, x, labels: run.apply(params, x, jnp.float32(0.0), labels),
                 compiler_options=assembly.compiler_options(run))
  params, batch = assembly.start(run).params, jax.device_put(batch, shardings.batch(run.mesh))
  return measure.repeated(lambda: call(params, *batch))


def _train(run: assembly.Run, batch: tuple[jax.Array, jax.Array]) -> measure.Task:
  """A task of n training steps of the runner."""
  step, batch = assembly.train_step(run), jax.device_put(batch, shardings.batch(run.mesh))
  return dispatches.under_way(lambda state: step(state, np.uint32(1), batch), assembly.start(run))


if __name__ == "__main__":
  # Here, because tests import this module beside others with flags of the same names.
  flags.DEFINE_string("out", "runs/bench/imported.json", "Where to write the numbers.")
  flags.DEFINE_integer("repeats", 5, "Number of rounds of each comparison.")
  flags.DEFINE_float("seconds", 3.0, "Seconds of each task in each round.")
  flags.DEFINE_list("only", [], f"Networks to compare, of {', '.join(WANTED)}. Default: all.")
  cli.run(main)
