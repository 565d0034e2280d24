"""Speed: what the library costs beside the bare network, beside PyTorch, and to start.

  python -m experiments.benchmarks.speed --out=runs/bench/speed.json

Everything is a ratio to a rival that is timed turn about with it (measure.py), at the shapes of
experiments/configs/digits.py and mixture2d.py. The table stands beside the target; the JSON holds
all rounds and the machine's description. About 20 minutes on 2 cores.

The bare network is what a hand-written loop would do: training, forward, backward and the same
optimizer on a fixed input and target; sampling, guidance and likelihood (speed_sampling.py), the
same number of jitted calls, each on the output of the one before it.
"""

import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import data
from experiments.benchmarks import measure, speed_sampling
from experiments.benchmarks.measure import Part, Row
from experiments.config import cli
from experiments.configs import digits, mixture2d
from experiments.run import assembly, meshes
from langevin_jax.training import shardings

_OUT = flags.DEFINE_string("out", "runs/bench/speed.json", "Where to write the numbers.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Rounds of every comparison.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Time of each rival in each round.")
_ONLY = flags.DEFINE_list("only", [], "Of train, sampling, guidance, likelihood, memory, torch, "
                          "import and start; all if not given.")


def main() -> int:
  parts = {"train": train, "sampling": lambda: speed_sampling.sampling(_timed),
           "guidance": lambda: speed_sampling.guided(_timed),
           "likelihood": lambda: speed_sampling.likelihoods(_timed),
           "memory": speed_sampling.memory, "torch": against_torch, "import": imports,
           "start": starts}
  chosen = _ONLY.value or list(parts)
  for name in chosen:
    if name not in parts:
      raise ValueError(f"--only must be of {', '.join(parts)}, got {name!r}")
  out = cli.out(_OUT.value, measure.is_report)
  assembly.configure_jax(digits.get_config())
  report = {"machine": measure.machine(), "command": sys.argv[1:], "rows": [], "seconds": {}}
  rows = []
  for name in chosen:
    before = measure.load()
    print(f"{name}: load average {before[0]}", flush=True)
    part = parts[name]()
    rows += part.rows
    report["rows"] += [{"part": name, **row._asdict(), "value": row.value and row.value._asdict(),
                        "load_average": [before[0], measure.load()[0]]} for row in part.rows]
    report["seconds"].update(part.seconds)
    measure.write(out, report)
  width = max(len(row.name) for row in rows)
  print(f"\n{'':{width}}  {'median':>8}  {'least':>8}  {'greatest':>8}  target")
  for row in rows:
    print(_line(row, width))
  print(f"\nin {out}")
  return 0


def train() -> Part:
  """train_step against forward, backward and optimizer of the network alone."""
  rows, seconds = [], {}
  for name, config in (("digits DiT", digits.get_config()), ("mixture2d MLP",
                                                             mixture2d.get_config())):
    run = assembly.prepare(config)
    devices = jax.devices()[:config.training.cpu_devices]
    times = _timed({"train_step": _train_step(run, devices), "bare": _bare_step(run, devices)},
                   f"training, {name}")
    seconds[f"train {name}"] = measure.plain(times)
    per = f"devices: {len(devices)}, steps a dispatch: {config.training.steps_per_dispatch}"
    rows.append(Row(f"train_step ÷ bare, {name} ({per})",
                    measure.ratio(times["train_step"], times["bare"]), "<= 1.05"))
  return Part(rows, seconds)


def against_torch() -> Part:
  """The training step of digits against the same model in PyTorch, whichever way is the faster.

  Its threads wait for each other by spinning, unless they are told to sleep: the first is the
  faster on an idle machine, the second by far on a busy one. Each round takes the better one.
  """
  what = "PyTorch ÷ train_step, digits DiT"
  if importlib.util.find_spec("torch") is None:
    return Part([Row(what, None, ">= 1", "torch not installed (extra [bench])")], {})
  run = assembly.prepare(digits.get_config())
  count = run.config.training.cpu_devices
  numbers = sorted({1, count})
  with contextlib.ExitStack() as stack:
    torch = {name: _torch_steps(stack.enter_context(_torch_worker(run, environment)),
                                run.config.training.steps_per_dispatch)
             for name, environment in (("torch", {}),
                                       ("torch asleep", {"OMP_WAIT_POLICY": "passive"}))}
    jax_steps = {f"jax {n}": _train_step(run, jax.devices()[:n]) for n in numbers}
    times = _timed({**torch, **jax_steps}, "PyTorch, digits DiT")
  best = np.minimum(*(times[name] for name in torch))
  rows = [Row(f"{what} (devices: {n})", measure.ratio(best, times[f"jax {n}"]),
              ">= 1" if n == count else "") for n in numbers]
  return Part(rows, {"torch digits DiT": measure.plain(times)})


def imports() -> Part:
  """import langevin_jax, where jax and flax are imported already, each time in a new process."""
  code = ("import time, jax, flax; start = time.perf_counter(); import langevin_jax; "
          "print(time.perf_counter() - start)")
  times = [float(_run([sys.executable, "-c", code])) for _ in range(max(7, _REPEATS.value))]
  return Part([Row("import langevin_jax after jax and flax, seconds", measure.spread(times),
                   "<= 0.3")], {"import": {"langevin_jax": times}})


def starts() -> Part:
  """From process to the end of the first training step of digits: empty cache, then filled."""
  first, whole = {"cold": [], "warm": []}, {"cold": [], "warm": []}
  for _ in range(_REPEATS.value):
    with tempfile.TemporaryDirectory() as room:
      for state in ("cold", "warm"):
        step, end = _start(pathlib.Path(room), state)
        first[state].append(step)
        whole[state].append(end)
        print(f"  {state} start: first step after {step:.1f} s, end after {end:.1f} s", flush=True)
  divide = lambda times: measure.ratio(np.asarray(times["warm"]), np.asarray(times["cold"]))
  median = lambda times: " and ".join(
      f"{np.median(times[state]):.1f} s {state}" for state in ("warm", "cold"))
  return Part([
      Row("second start ÷ first, to the end of the first step", divide(first), "<= 0.5",
          median(first)),
      Row("second start ÷ first, whole run of one step", divide(whole), "", median(whole)),
  ], {"first step": first, "run of one step": whole})


def _train_step(run: assembly.Run, devices: Sequence[jax.Device]) -> measure.Task:
  """Dispatches of the library's step, as experiments.train makes them."""
  many = run.config.training.steps_per_dispatch > 1
  run = assembly.assemble(run.config, run.dataset.train.shape[1:], run.dataset.num_classes,
                      meshes.make(run.config.mesh, devices))._replace(dataset=run.dataset)
  step = assembly.train_step(run, many=many)
  batch = jax.device_put(_batches(run), shardings.batch(run.mesh, axis=int(many)))
  return _loop(lambda state: step(state, np.uint32(1), batch), assembly.start(run))


def _bare_step(run: assembly.Run, devices: Sequence[jax.Device]) -> measure.Task:
  """The same number of steps of the network and optimizer alone, on fixed inputs and targets."""
  many = run.config.training.steps_per_dispatch > 1

  def one(state, batch):
    params, opt_state = state
    x, ell, labels = batch
    error = lambda params: jnp.mean((run.apply(params, x, ell, labels) - x) ** 2)
    loss, gradient = jax.value_and_grad(error)(params)
    updates, opt_state = run.optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  step = jax.jit(functools.partial(jax.lax.scan, one) if many else one, donate_argnums=0)
  place = _placement(devices)
  start = jax.jit(run.init, out_shardings=place())(jax.random.key(0))
  x, labels = _batches(run)
  ell = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
  batch = jax.device_put((x, ell, labels), place(*[None] * many, "data"))
  return _loop(lambda state: step(state, batch), (start.params, start.opt_state))


def _batches(run: assembly.Run) -> tuple[np.ndarray, np.ndarray]:
  """What one dispatch takes: a batch, or as many as it has steps, stacked."""
  config = run.config.training
  batches = [data.batch(run.dataset, seed=0, step=step, batch_size=config.batch_size)
             for step in range(config.steps_per_dispatch)]
  return batches[0] if len(batches) == 1 else tuple(map(np.stack, zip(*batches, strict=True)))


def _loop(step: Callable[[Any], tuple[Any, Any]], state: Any) -> measure.Task:
  """run(n): n dispatches, at most two of them under way, as the runner has it."""
  held = [state, None]

  def loop(n):
    for _ in range(n):
      before = held[1]
      held[0], held[1] = step(held[0])
      jax.block_until_ready(before)
    jax.block_until_ready(held)

  return loop


@contextlib.contextmanager
def _torch_worker(
    run: assembly.Run, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen]:
  """torch_dit as a program, with the shapes and the optimiser of the run; ended on the way out."""
  config, shape = run.config, run.dataset.train.shape[1:]
  setting = {
      "height": shape[0], "width_pixels": shape[1], "channels": shape[2],
      "num_classes": run.dataset.num_classes, "threads": os.cpu_count()}
  setting |= {name: config.network[name] for name in ("patch_size", "width", "depth", "heads")}
  setting |= {name: getattr(config.training, name) for name in (
      "batch_size", "learning_rate", "gradient_clip", "label_dropout")}
  optimizer = config.training.optimizer
  setting |= {"beta_2": optimizer["b2"], "weight_decay": optimizer["weight_decay"]}
  setting["ema_half_life_steps"] = config.training.ema_half_life_steps[0]
  with subprocess.Popen(
      [sys.executable, "-m", "experiments.benchmarks.torch_dit", json.dumps(setting)],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      env={**os.environ, **environment}) as worker:
    try:
      yield worker
    finally:
      worker.kill()


def _torch_steps(worker: subprocess.Popen, per_dispatch: int) -> measure.Task:
  def steps(n):
    print(n * per_dispatch, file=worker.stdin, flush=True)
    if not worker.stdout.readline():
      raise OSError("the PyTorch worker has ended; its message is above")

  return steps


def _start(room: pathlib.Path, state: str) -> tuple[float, float]:
  """Seconds to the end of the first step of `experiments.train`, and to the end of the program."""
  workdir = room / state
  begun = time.perf_counter()
  process = subprocess.Popen(
      [sys.executable, "-m", "experiments.train",
       f"--config={pathlib.Path(digits.__file__)}", f"--workdir={workdir}",
       "--config.training.steps=1"],
      env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(room / "cache")},
      stdout=subprocess.DEVNULL)
  # The first line of metrics is written as soon as the step has ended.
  metrics = workdir / "metrics.jsonl"
  step = None
  while process.poll() is None:
    if step is None and metrics.exists() and metrics.stat().st_size:
      step = time.perf_counter() - begun
    time.sleep(0.005)
  if process.returncode or step is None:
    raise OSError(f"experiments.train ended with exit code {process.returncode}")
  return step, time.perf_counter() - begun


def _placement(devices: Sequence[jax.Device]) -> Callable[..., jax.sharding.NamedSharding]:
  mesh = jax.make_mesh((len(devices),), ("data",), devices=devices,
                       axis_types=(jax.sharding.AxisType.Auto,))
  return lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def _timed(tasks: Mapping[str, measure.Task], what: str) -> dict[str, np.ndarray]:
  times = measure.interleaved(tasks, repeats=_REPEATS.value, seconds=_SECONDS.value)
  medians = ", ".join(f"{name} {1e3 * np.median(t):.4g} ms" for name, t in times.items())
  print(f"  {what}: {medians}", flush=True)
  return times


def _run(command: Sequence[str]) -> str:
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _line(row: Row, width: int) -> str:
  numbers = [""] * 3 if row.value is None else [f"{v:.3f}" for v in row.value]
  return (f"{row.name:{width}}  " + "  ".join(f"{v:>8}" for v in numbers)
          + f"  {row.target:8}  {row.note}").rstrip()


if __name__ == "__main__":
  cli.run(main)
