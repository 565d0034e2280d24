"""Trains the model of a config and keeps everything about it in a workdir.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits

The same command again resumes, and ends in the same parameters bit for bit as a run that was never
stopped. Ctrl-C or SIGTERM saves first.
"""

import contextlib
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.config import build, cli
from experiments.data import facts
from experiments.run import (
  assembly,
  averages,
  checkpoints,
  memory,
  meshes,
  multihost,
  progress,
  records,
)
from experiments.sampling import pictures
from langevin_jax import objectives, training
from langevin_jax.training import shardings

flags.declare_key_flag("config")
flags.adopt_module_key_flags(multihost)

# A signal is answered between dispatches, of which `training.dispatches_in_flight` may be on their
# way: no more steps make one than take so long.
_DISPATCH_SECONDS = 1.0
# Dimensions up to which eigenvalues of a covariance cost little beside a training.
_COVARIANCE_UP_TO = 1024

_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run; made if absent.")


def main() -> int:
  config = cli.config()
  workdir = cli.workdir(_WORKDIR.value)
  assembly.configure_jax(config)
  joined = multihost.joined(lambda: records.same(config), stop_together=True)
  with contextlib.ExitStack() as held, joined:
    run = multihost.agreed(lambda: assembly.prepare(config))
    multihost.check_same({"data": data.digest(run.dataset)} if multihost.several() else {})
    meshes.check_batch(config.training, run.mesh)
    memory.check_training(config, run.dataset.train.shape[1:], run.mesh)

    def claim():
      held.enter_context(records.locked(workdir))
      records.claim(workdir, config)
      records.check_numerics(workdir)
      facts.claim(workdir, run.dataset)

    multihost.by_first(claim)
    train(run, workdir)
  return 0


def train(run: assembly.Run, workdir: pathlib.Path) -> training.TrainState:
  """Trains from the newest checkpoint to the last step, or until a signal.

  Raises:
    FloatingPointError: loss or gradient not finite; names step and noise level. The newest
      checkpoint is from before it.
    OSError: the disk, or the workdir is no longer there.
  """
  config, first_host = run.config.training, multihost.is_first()
  stop = multihost.stopping()
  with contextlib.ExitStack() as open_:
    manager = open_.enter_context(checkpoints.manager(workdir, keep=config.keep_checkpoints))
    snapshots = open_.enter_context(averages.manager(workdir)) if config.snapshot_every else None
    state = checkpoints.restore(manager, assembly.abstract_state(run), discard_damaged=True)
    if state is None:
      state = assembly.start(run)
    first = int(state.step)
    if first:
      _say(f"resuming {workdir} at step {first} of {config.steps}")
    metrics = None
    if first_host and (first < config.steps or not (workdir / "manifest.json").exists()):
      records.manifest(workdir, run.config, from_step=first, finished=False)
      metrics = records.Metrics(workdir, first)
    reporter = _Reporter(config, metrics, first, _Learning(run, first) if first_host else None)
    saved = first
    started = time.monotonic()
    with contextlib.closing(reporter), progress.bar(
        config.steps, first, "training", shown=first_host) as bar:
      for dispatch, (start, after, sent) in enumerate(_steps(run, state)):
        state, end = after, start + sent.steps
        passed = _passed(config, start, end)
        due = passed[1] // config.checkpoint_every > passed[0] // config.checkpoint_every
        leaving = stop(dispatch) or end == config.steps
        snapshot = averages.snapshot_due(config, *passed)
        # What is to be saved is known to be finite first.
        reporter.add(start, sent, now=due or leaving or snapshot)
        with multihost.heard():
          bar(end, reporter.summary)
        if due or leaving or snapshot:
          _check_finite(state, end)
          reporter.flush()
        if snapshot:
          averages.save_snapshot(snapshots, end, state, config)
        if due or leaving:
          if snapshots:
            checkpoints.finish(snapshots)
          checkpoints.save(manager, end, state)
          saved = end
        if leaving:
          break
      checkpoints.finish(manager)
      if saved > first:
        reporter.flush()  # the workdir is still where the run began
  seconds = time.monotonic() - started
  if saved < config.steps:
    _say(f"stopped at step {saved} of {config.steps} and saved it in {workdir}; "
         "the same command goes on from there")
    return state
  trained = {"steps": saved, "seconds": round(seconds, 1), "since_step": first,
           "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
           "sha256": records.sha256(multihost.fetch(state.params)),
           "sha256_ema": records.sha256(multihost.fetch(state.ema[0]))}

  def finish():
    if first == saved and records.read_manifest(workdir).get("finished"):
      _say(f"{workdir} is trained to step {saved} already")
      return
    records.manifest(workdir, run.config, finished=True, **trained)
    pictures.training(workdir, run)
    _say(f"trained to step {saved} in {workdir} ({seconds:.0f} s from step {first}); "
         f"sha256 of the parameters {trained['sha256'][:16]}")

  multihost.by_first(finish)
  return state


def _say(words: str) -> None:
  """Prints a line, once for all processes."""
  if multihost.is_first():
    with multihost.heard():
      print(words, flush=True)


def _check_finite(state: training.TrainState, step: int) -> None:
  """Raises FloatingPointError where a finite gradient has led to parameters that are not."""
  if not _finite(state):
    raise FloatingPointError(
        f"parameters are not finite after step {step - 1}; the last good checkpoint is kept. Lower "
        "training.learning_rate")


@jax.jit
def _finite(state) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


class _Sent(NamedTuple):
  """A dispatch: its steps and their metrics, still on their way; the host's share of its time.

  Metrics have an axis of at least as many steps.
  """

  measured: training.Metrics
  steps: int
  host_seconds: float


def _passed(config: config_lib.Training, start: int, end: int) -> tuple[int, int]:
  """The steps start…end of a dispatch, in whole multiples of `steps_per_dispatch`.

  What is done every so many steps is done at these. A dispatch may be shorter, but where it ends is
  a matter of time: files do not depend on it.
  """
  whole = lambda step: step // config.steps_per_dispatch * config.steps_per_dispatch
  return whole(start), end if end == config.steps else whole(end)


def _steps(
    run: assembly.Run, state: training.TrainState
) -> Iterator[tuple[int, training.TrainState, _Sent]]:
  """(first step, state after, what was sent) of each dispatch.

  Dispatches are sent ahead of the metrics that are read, so the device never waits for the host.
  The first has one step, which compiles. So has the second, which is timed: of slow steps a
  dispatch has few, for a signal is answered between dispatches.
  """
  config = run.config.training
  most = assembly.steps_at_once(run)
  many = most > 1
  step = assembly.train_step(run, many=many)
  place = shardings.batch(run.mesh)
  held = multihost.rows(place, (config.batch_size,))
  first = int(state.step)
  batches = data.stream(run.dataset, seed=run.config.seed, start=first, stop=config.steps,
                        batch_size=config.batch_size, rows=held)
  seed = np.uint32(run.config.seed + 1)
  start, number, sent = first, 0, 0
  while start < config.steps:
    begun = time.perf_counter()
    # Dispatches end at multiples of `most`, whatever the number.
    count = min(max(number, 1), most - start % most, config.steps - start)
    parts = [next(batches) for _ in range(count)]
    # One program takes any number: batches that are not there are the last one again.
    parts += [parts[-1]] * (most - count)
    local = tuple(np.stack(part) for part in zip(*parts, strict=True)) if many else parts[0]
    axis = int(many)
    batch = tuple(multihost.place(shardings.batch(run.mesh, axis=axis), part, held,
                                  config.batch_size, axis=axis) for part in local)
    state, measured = step(state, seed, batch, *([np.int32(count)] if many else []))
    host_seconds = time.perf_counter() - begun
    if many and not number:
      jax.block_until_ready(measured)
      if sent:
        number = _number(time.perf_counter() - begun, most)
    sent += 1
    yield start, state, _Sent(measured, count, host_seconds)
    start += count


def _number(seconds: float, most: int) -> int:
  """How many steps of so many seconds make a dispatch; the same on every process."""
  number = int(np.clip(_DISPATCH_SECONDS / max(seconds, 1e-9), 1, most))
  return number if jax.process_count() == 1 else int(multihost.broadcast(np.int32(number)))


class _Learning:
  """Says once, at a stated step, of a run that it is no better than the best linear denoiser.

  The step is a fifth of the training, within 500 and 2,000; what counts is the mean loss of the
  steps since half of it. A run that resumes after that step is not judged again.
  """

  def __init__(self, run: assembly.Run, first: int):
    self._run, self._due = run, int(np.clip(run.config.training.steps // 5, 500, 2000))
    self._losses: list[np.ndarray] = []
    self._open = first < self._due <= run.config.training.steps

  def add(self, start: int, losses: np.ndarray) -> None:
    """Takes the losses of steps start…, and prints the line where one is due."""
    if not self._open:
      return
    if start + len(losses) > self._due // 2:
      self._losses.append(losses)
    if start + len(losses) < self._due:
      return
    self._open = False
    mean, linear = float(np.concatenate(self._losses).mean()), _linear_loss(self._run)
    if not mean < linear:
      _say(f"by step {self._due} the loss is {mean:.4g}, not below {linear:.4g}, the loss of the "
           "best linear denoiser: what was learned is the data's mean and covariance at most. "
           "Gaussian data have no more; for other data change training.learning_rate or "
           "objective.prediction, or take a wider network")


def _linear_loss(run: assembly.Run) -> float:
  """`objectives.linear_loss` of the training data.

  Of data with many dimensions for their number the variances alone are known: an upper bound.
  """
  x = run.dataset.train
  density = build.density(run.config.objective, run.path)
  n, d = len(x), int(np.prod(x.shape[1:]))
  if isinstance(x, np.ndarray) and n >= 10 * d and d <= _COVARIANCE_UP_TO:
    some = x[:: max(n // (20 * _COVARIANCE_UP_TO), 1)].reshape(-1, d).astype(np.float64)
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(some, rowvar=False)))
  else:
    variances = np.ravel(data.moments(run.dataset)[1])
  return float(objectives.linear_loss(
      jnp.asarray(np.maximum(variances, 0.0), jnp.float32), density=density,
      weight=build.weight(run.config.objective, density)))


class _Reporter:
  """Averages metrics over windows of `log_every` steps and writes a line for each.

  `metrics` is None where another process writes. `host_seconds_per_step` is what was spent on
  sending off dispatches; the rest of the time the host waited for the devices, which therefore had
  work.
  """

  def __init__(
      self, config: config_lib.Training, metrics: records.Metrics | None, step: int,
      learning: _Learning | None = None,
  ):
    self._config, self._metrics, self._learning = config, metrics, learning
    self._window: list[training.Metrics] = []
    self._pending: list[tuple[int, _Sent]] = []
    self._begun, self._last, self._host_seconds = time.monotonic(), step, 0.0
    self.summary = ""

  def add(self, start: int, sent: _Sent, *, now: bool) -> None:
    """Takes the metrics of steps start…; reads what is not to be in flight, or all if `now`."""
    self._pending.append((start, sent))
    while len(self._pending) > (0 if now else self._config.dispatches_in_flight - 1):
      self._read(*self._pending.pop(0))
    if now:
      self._write(start + sent.steps)

  def flush(self) -> None:
    if self._metrics:
      self._metrics.flush()

  def close(self) -> None:
    if self._metrics:
      self._metrics.close()

  def _read(self, start: int, sent: _Sent) -> None:
    measured = jax.tree.map(lambda rows: rows[:sent.steps], jax.device_get(sent.measured))
    self._host_seconds += sent.host_seconds
    if not measured.finite.all():
      i = int(np.argmin(measured.finite))
      ell = float(measured.worst_half_log_snr[i])
      raise FloatingPointError(
          f"loss is not finite at step {start + i}, at half log-SNR {ell:.3f} (noise-to-signal "
          f"ratio {np.exp(-ell):.4g}); the last good checkpoint is kept. Lower "
          "training.learning_rate, or narrow rho_min…rho_max of objective.density")
    self._window.append(measured)
    if self._learning:
      self._learning.add(start, measured.loss)
    begin, end = _passed(self._config, start, start + sent.steps)
    every = self._config.log_every
    if end // every > begin // every:
      self._write(end)

  def _write(self, step: int) -> None:
    if not self._window:
      return
    window = jax.tree.map(lambda *parts: np.concatenate(parts), *self._window)
    now = time.monotonic()
    steps, seconds = step - self._last, max(now - self._begun, 1e-9)
    if self._metrics:
      self._metrics.write(step, {
          "loss": float(window.loss.mean()),
          "grad_norm": float(window.grad_norm.mean()),
          "level_error": window.level_error.sum(0).round(6).tolist(),
          "level_count": window.level_count.sum(0).tolist(),
      }, seconds=seconds, steps_per_second=steps / seconds,
          host_seconds_per_step=self._host_seconds / steps)
    self.summary = f"loss {window.loss.mean():.4f}"
    self._window, self._begun, self._last, self._host_seconds = [], now, step, 0.0


if __name__ == "__main__":
  cli.run(main, at_once=True)
