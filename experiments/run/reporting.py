"""What a training reports: lines of metrics, and whether it learns at all."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.run import assembly, dispatches, multihost, records, watching
from langevin_jax import objectives, training

# Dimensions up to which the eigenvalues of a covariance cost little beside a training.
_COVARIANCE_UP_TO = 1024


class LinearCheck:
  """Prints one line about a run that has learned no more than the best linear denoiser.

  It compares once, at step n, a fifth of the training, between 500 and 2,000: the mean loss of the
  steps n/2…n. A run that resumes after step n is not compared again.
  """

  def __init__(self, run: assembly.Run, first: int):
    self._run, self._due = run, int(np.clip(run.config.training.steps // 5, 500, 2000))
    self._losses: list[np.ndarray] = []
    # Flow maps and autoencoders have losses with other targets, tokens no linear denoiser.
    objective = run.config.objective
    ordinary = (objective.flow_map is None and objective.autoencoder is None
                and not run.dataset.vocabulary)
    self._open = ordinary and first < self._due <= run.config.training.steps

  def add(self, start: int, losses: np.ndarray) -> None:
    """Takes the losses of steps start…; prints the line at step n."""
    if not self._open:
      return
    if start + len(losses) > self._due // 2:
      self._losses.append(losses)
    if start + len(losses) < self._due:
      return
    self._open = False
    mean, linear = float(np.concatenate(self._losses).mean()), linear_loss(self._run)
    if not mean < linear:
      multihost.say(
          f"by step {self._due} the loss is {mean:.4g}, not below {linear:.4g}, the loss of the "
          "best linear denoiser: what was learned is the data's mean and covariance at most. "
          "Gaussian data have no more; for other data change training.learning_rate or "
          "objective.prediction, or take a wider network")


def linear_loss(run: assembly.Run) -> float:
  """`objectives.linear_loss` of the training data.

  With too few examples for a covariance it uses the variances alone, which gives an upper bound.
  """
  x = run.dataset.train
  density, weight = build.base_objective(run.config)
  n, d = len(x), int(np.prod(x.shape[1:]))
  if isinstance(x, np.ndarray) and n >= 10 * d and d <= _COVARIANCE_UP_TO:
    some = x[:: max(n // (20 * _COVARIANCE_UP_TO), 1)].reshape(-1, d).astype(np.float64)
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(some, rowvar=False)))
  else:
    variances = np.ravel(data.moments(run.dataset)[1])
  return float(objectives.linear_loss(
      jnp.asarray(np.maximum(variances, 0.0), jnp.float32), density=density, weight=weight))


def remedy(objective: config_lib.Objective) -> str:
  """What to change where a loss is not finite."""
  return "Lower training.learning_rate, or " + (
      "narrow rho_min…rho_max of objective.density" if objective.flow_map is None else
      "take the default pairs, and of lagrangian stop='none', in objective.flow_map")


class Reporter:
  """Averages metrics over `log_every` steps and writes a line for each such window.

  `metrics` is None where another process writes. `remedy` is the end of the error about a loss
  that is not finite. `host_seconds_per_step` is the time that the host spent on sending dispatches;
  in the rest it waited for the devices.
  """

  def __init__(
      self, config: config_lib.Training, metrics: records.Metrics | None, step: int,
      linear: LinearCheck | None = None, remedy: str = "",
  ):
    self._config, self._metrics, self._linear, self._remedy = config, metrics, linear, remedy
    self._rate = jax.jit(build.schedule(config))  # one program in place of a dozen
    self._watched: dict[int, watching.Watched] = {}
    self._window: list[training.Metrics] = []
    self._pending: list[dispatches.Dispatch] = []
    self._begun, self._last, self._host_seconds = time.monotonic(), step, 0.0
    self.summary = ""

  def add(
      self, sent: dispatches.Dispatch, *, now: bool, watched: watching.Watched | None = None
  ) -> None:
    """Takes the metrics of a dispatch; waits for those that may not be in flight, all if `now`.

    The line after its last step has the numbers of `watched`.
    """
    # Without the state, which the next dispatch overwrites.
    self._pending.append(sent._replace(state=None))
    if watched is not None:
      self._watched[sent.end] = watched
    while len(self._pending) > (0 if now else self._config.dispatches_in_flight - 1):
      self._read(self._pending.pop(0))
    if now:
      self._write(sent.end)

  def flush(self) -> None:
    if self._metrics:
      self._metrics.flush()

  def close(self) -> None:
    if self._metrics:
      self._metrics.close()

  def _read(self, sent: dispatches.Dispatch) -> None:
    steps = sent.end - sent.start
    measured = jax.tree.map(lambda rows: rows[:steps], jax.device_get(sent.measured))
    self._host_seconds += sent.host_seconds
    if not measured.finite.all():
      i = int(np.argmin(measured.finite))
      ell = float(measured.worst_half_log_snr[i])
      raise FloatingPointError(
          f"loss is not finite at step {sent.start + i}, at half log-SNR {ell:.3f} "
          f"(noise-to-signal ratio {np.exp(-ell):.4g}); the last good checkpoint is kept. "
          + self._remedy)
    self._window.append(measured)
    if self._linear:
      self._linear.add(sent.start, measured.loss)
    begin, end = dispatches.whole_steps(self._config, sent.start, sent.end)
    if dispatches.passes(self._config.log_every, begin, end):
      self._write(end)

  def _write(self, step: int) -> None:
    if not self._window:
      return
    window = jax.tree.map(lambda *parts: np.concatenate(parts), *self._window)
    now = time.monotonic()
    steps, seconds = step - self._last, max(now - self._begun, 1e-9)
    watched = self._watched.pop(step, watching.Watched({}, {}))
    if self._metrics:
      self._metrics.write(step, {
          "loss": float(window.loss.mean()),
          "grad_norm": float(window.grad_norm.mean()),
          "update_norm": float(window.update_norm.mean()),
          "param_norm": float(window.param_norm[-1]),
          "learning_rate": float(self._rate(step - 1)),
          "level_error": window.level_error.sum(0).round(6).tolist(),
          "level_count": window.level_count.sum(0).tolist(),
          "examples_per_second": float(f"{steps / seconds * self._config.batch_size:.4g}"),
          **watched.values,
      }, seconds=seconds, steps_per_second=steps / seconds,
          host_seconds_per_step=self._host_seconds / steps, images=watched.images)
    self.summary = f"loss {window.loss.mean():.4f}"
    self._window, self._begun, self._last, self._host_seconds = [], now, step, 0.0
