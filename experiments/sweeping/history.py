"""The measurements of a group of a sweep, in history.json; cut to the restored step on resuming."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.run import records
from langevin_jax import training


class History:
  """Lines of metrics, measured points and failures of the n members of a group.

  `content` is the content of history.json:

    lines    {step, steps, seconds, loss [n], …}, means over windows of steps
    points   {step, values [n]}
    failed   {member: {step, error}}

  Seconds are the time of training all members, without the time in `paused`.
  """

  def __init__(self, folder: pathlib.Path):
    self._file = folder / "history.json"
    self.content: dict[str, Any] = {"lines": [], "points": [], "failed": {}}
    if self._file.exists():
      self.content = _read(self._file)
    self._window: list[training.Metrics] = []
    self._begun = time.monotonic()

  def cut(self, step: int) -> None:
    """Removes measurements after `step`."""
    for name in ("lines", "points"):
      self.content[name] = [entry for entry in self.content[name] if entry["step"] <= step]
    self.content["failed"] = {
        i: failed for i, failed in self.content["failed"].items() if failed["step"] < step}

  def add(self, start: int, metrics: training.Metrics, every: int) -> None:
    """Adds the metrics (n, K) of K steps from `start`; a line covers `every` steps."""
    metrics = jax.tree.map(np.asarray, metrics)
    for i in np.flatnonzero(~metrics.finite.all(axis=1)):
      k = int(np.argmin(metrics.finite[i]))
      ell = float(metrics.worst_half_log_snr[i, k])
      self.content["failed"].setdefault(str(i), {"step": start + k, "error": (
          f"loss is not finite at step {start + k}, at half log-SNR {ell:.3f}")})
    self._window.append(metrics)
    end = start + metrics.loss.shape[1]
    if end // every > start // every:
      self._add_line(end)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """A context whose time is not counted in the seconds of any line."""
    before = time.monotonic()
    yield
    self._begun += time.monotonic() - before

  def point(self, step: int, values: list[dict[str, float]]) -> None:
    """Adds the measurements of all members at a step."""
    self.content["points"].append({"step": step, "values": values})

  def write(self, step: int) -> None:
    """Writes history.json. Call it before the checkpoint of `step` is saved."""
    if self._window:
      self._add_line(step)
    records.write_text(self._file, json.dumps(self.content) + "\n")

  def _add_line(self, step: int) -> None:
    """Adds a line for the metrics since the last line, and starts a new window."""
    window = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *self._window)
    now = time.monotonic()
    finite = lambda values: [float(v) if np.isfinite(v) else None for v in values]
    self.content["lines"].append({
        "step": step, "steps": window.loss.shape[1], "seconds": max(now - self._begun, 1e-9),
        "loss": finite(window.loss.mean(1)), "grad_norm": finite(window.grad_norm.mean(1)),
        "level_error": window.level_error.sum(1).round(6).tolist(),
        "level_count": window.level_count.sum(1).tolist()})
    self._window, self._begun = [], now


_ENTRIES = {
    "lines": ("step", "steps", "seconds", "loss", "grad_norm", "level_error", "level_count"),
    "points": ("step", "values"), "failed": ("step", "error")}


def _read(file: pathlib.Path) -> dict[str, Any]:
  """The content of history.json. Raises ValueError, with the remedy, if it is damaged."""
  try:
    content = records.read_json(file, lines=list, points=list, failed=dict)
    for kind, names in _ENTRIES.items():
      for entry in content[kind].values() if kind == "failed" else content[kind]:
        if not (isinstance(entry, dict) and type(entry.get("step")) is int
                and entry.keys() >= set(names)):
          raise ValueError(f"{file} is damaged: it has an entry without {', '.join(names)}")
  except ValueError as error:
    raise ValueError(f"{error}; delete {file.parent} to train this group again") from error
  return content
