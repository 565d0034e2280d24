"""Trains the model of a config and keeps everything about it in a workdir.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits

The same command again resumes, and ends in the same parameters bit for bit as a run that was never
stopped. Ctrl-C or SIGTERM saves first.
"""

import contextlib
import functools
import json
import pathlib
import signal
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from experiments import checkpoints, cli, data, plots, progress, records, runs
from langevin_jax import training

flags.declare_key_flag("config")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run; made if absent.")


def main() -> int:
  config = cli.config()
  workdir = cli.workdir(_WORKDIR.value)
  runs.configure_jax(config)
  run = runs.prepare(config)
  if config.training.batch_size % jax.device_count():
    raise ValueError(f"config.training.batch_size: {config.training.batch_size} must be divisible "
                     f"by the {jax.device_count()} devices")
  records.claim(workdir, config)
  train(run, workdir)
  return 0


def train(run: runs.Run, workdir: pathlib.Path) -> training.TrainState:
  """Trains from the newest checkpoint to the last step, or until a signal.

  Raises:
    FloatingPointError: loss or gradient not finite; names step and noise level. The newest
      checkpoint is from before it.
    OSError: the disk.
  """
  config = run.config.training
  stop = _signals()
  with checkpoints.manager(workdir, keep=config.keep_checkpoints) as manager:
    state = checkpoints.restore(manager, runs.abstract_state(run), discard_damaged=True)
    if state is None:
      state = jax.jit(run.init, out_shardings=runs.sharding())(jax.random.key(run.config.seed))
    first = int(state.step)
    if first:
      print(f"resuming {workdir} at step {first} of {config.steps}", flush=True)
    if first < config.steps or not (workdir / "manifest.json").exists():
      records.manifest(workdir, run.config, finished=False)
    metrics = records.Metrics(workdir, first)
    reporter = _Reporter(run, metrics, first)
    saved = first
    started = time.monotonic()
    with contextlib.closing(metrics), progress.bar(config.steps, first, "training") as bar:
      for start, after, measured in _steps(run, state):
        state, end = after, start + len(measured.loss)
        due = end // config.checkpoint_every > start // config.checkpoint_every
        leaving = stop() or end == config.steps
        reporter.add(start, measured, now=due or leaving)
        bar(end, reporter.summary)
        if due or leaving:
          metrics.flush()
          checkpoints.save(manager, end, state)
          saved = end
        if leaving:
          break
    checkpoints.finish(manager)
  seconds = time.monotonic() - started
  if saved < config.steps:
    print(f"stopped at step {saved} of {config.steps} and saved it in {workdir}; "
          "the same command goes on from there", flush=True)
    return state
  if first == saved and json.loads((workdir / "manifest.json").read_text())["finished"]:
    print(f"{workdir} is trained to step {saved} already", flush=True)
    return state
  records.manifest(
      workdir, run.config, finished=True, steps=saved, seconds=round(seconds, 1), since_step=first,
      parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
      sha256=records.sha256(jax.device_get(state.params)),
      sha256_ema=records.sha256(jax.device_get(state.ema)))
  plots.training(workdir, run)
  print(f"trained to step {saved} in {workdir} ({seconds:.0f} s from step {first}); "
        f"sha256 of the parameters {_digest(workdir)[:16]}", flush=True)
  return state


def _steps(
    run: runs.Run, state: training.TrainState
) -> Iterator[tuple[int, training.TrainState, training.Metrics]]:
  """(first step, state after, host metrics with leading axis K) of each dispatch.

  A dispatch is sent before the metrics of the one before it are read, so the device never waits
  for the host.
  """
  config = run.config.training
  key = jax.random.key(run.config.seed + 1)
  options = {"loss": run.loss, "optimizer": run.optimizer,
             "ema_half_life_steps": config.ema_half_life_steps}
  one = jax.jit(functools.partial(training.train_step, **options), donate_argnums=0)
  many = jax.jit(functools.partial(training.train_steps, **options), donate_argnums=0)

  for start in range(int(state.step), config.steps, config.steps_per_dispatch):
    end = min(start + config.steps_per_dispatch, config.steps)
    batches = [data.batch(run.dataset, seed=run.config.seed, step=step,
                          batch_size=config.batch_size) for step in range(start, end)]
    if config.steps_per_dispatch == 1:
      batch = jax.device_put(batches[0], runs.sharding("data"))
      state, measured = one(state, key, batch)
      measured = jax.tree.map(lambda leaf: leaf[None], measured)
    else:
      stacked = tuple(np.stack(parts) for parts in zip(*batches, strict=True))
      state, measured = many(state, key, jax.device_put(stacked, runs.sharding(None, "data")))
    yield start, state, measured


class _Reporter:
  """Averages metrics over windows of `log_every` steps and writes a line for each."""

  def __init__(self, run: runs.Run, metrics: records.Metrics, step: int):
    self._run, self._metrics = run, metrics
    self._window: list[training.Metrics] = []
    self._pending: list[tuple[int, training.Metrics]] = []
    self._begun, self._last = time.monotonic(), step
    self.summary = ""

  def add(self, start: int, measured: training.Metrics, *, now: bool) -> None:
    """Takes the metrics of steps start…; reads those of the dispatch before, or of all if `now`."""
    self._pending.append((start, measured))
    while len(self._pending) > (0 if now else 1):
      self._read(*self._pending.pop(0))
    if now:
      self._write(start + len(measured.loss))

  def _read(self, start: int, measured: training.Metrics) -> None:
    measured = jax.device_get(measured)
    if not measured.finite.all():
      i = int(np.argmin(measured.finite))
      ell = float(measured.worst_half_log_snr[i])
      raise FloatingPointError(
          f"loss is not finite at step {start + i}, at half log-SNR {ell:.3f} (noise-to-signal "
          f"ratio {np.exp(-ell):.4g}); the last good checkpoint is kept. Lower "
          "training.learning_rate, or narrow objective.rho_min…rho_max")
    self._window.append(measured)
    end = start + len(measured.loss)
    every = self._run.config.training.log_every
    if end // every > start // every:
      self._write(end)

  def _write(self, step: int) -> None:
    if not self._window:
      return
    window = jax.tree.map(lambda *parts: np.concatenate(parts), *self._window)
    now = time.monotonic()
    rate = (step - self._last) / max(now - self._begun, 1e-9)
    self._metrics.write(step, {
        "loss": float(window.loss.mean()),
        "grad_norm": float(window.grad_norm.mean()),
        "steps_per_second": round(rate, 3),
        "level_error": window.level_error.sum(0).round(6).tolist(),
        "level_count": window.level_count.sum(0).tolist(),
    })
    self.summary = f"loss {window.loss.mean():.4f}"
    self._window, self._begun, self._last = [], now, step


def _signals():
  """A function that says whether SIGINT or SIGTERM has come; a second one kills as usual."""
  received = []

  def handler(number, frame):
    received.append(number)
    signal.signal(number, signal.SIG_DFL)
    print(f"\n{signal.Signals(number).name}: saving, then leaving", flush=True)

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, handler)
  return lambda: bool(received)


def _digest(workdir: pathlib.Path) -> str:
  return json.loads((workdir / "manifest.json").read_text())["sha256"]


if __name__ == "__main__":
  cli.run(main)
