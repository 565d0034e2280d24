"""What a group of a sweep has measured so far, on disk: it is cut back to the restored step."""

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
  """Windows of metrics, measured points and failures of a group, kept in history.json.

  lines: {step, steps, seconds, loss [n], …}. points: {step, values [n]}. failed: {member: {step,
  error}}. Seconds are of training all members, measuring them left out (`aside`).
  """

  def __init__(self, here: pathlib.Path, size: int):
    self._file, self._size = here / "history.json", size
    self.content: dict[str, Any] = {"lines": [], "points": [], "failed": {}}
    if self._file.exists():
      self.content = _read(self._file)
    self._window: list[training.Metrics] = []
    self._begun = time.monotonic()

  def cut(self, step: int) -> None:
    """Forgets what came after `step`, which will come again."""
    for name in ("lines", "points"):
      self.content[name] = [line for line in self.content[name] if line["step"] <= step]
    self.content["failed"] = {
        i: failed for i, failed in self.content["failed"].items() if failed["step"] < step}

  def add(self, start: int, measured: training.Metrics, every: int) -> None:
    """Takes the metrics (n, K) of steps start…"""
    measured = jax.tree.map(lambda leaf: np.asarray(leaf)[:self._size], measured)
    for i in np.flatnonzero(~measured.finite.all(axis=1)):
      if str(i) not in self.content["failed"]:
        k = int(np.argmin(measured.finite[i]))
        ell = float(measured.worst_half_log_snr[i, k])
        self.content["failed"][str(i)] = {"step": start + k, "error": (
            f"loss is not finite at step {start + k}, at half log-SNR {ell:.3f}")}
    self._window.append(measured)
    end = start + measured.loss.shape[1]
    if end // every > start // every:
      self._close(end)

  @contextlib.contextmanager
  def aside(self) -> Iterator[None]:
    """What is done inside is no part of any line's seconds."""
    before = time.monotonic()
    yield
    self._begun += time.monotonic() - before

  def point(self, step: int, values: list[dict[str, float]]) -> None:
    self.content["points"].append({"step": step, "values": values})

  def write(self, step: int) -> None:
    """On disk before the checkpoint that covers it."""
    if self._window:
      self._close(step)
    records.write_text(self._file, json.dumps(self.content) + "\n")

  def _close(self, step: int) -> None:
    window = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *self._window)
    now = time.monotonic()
    number = lambda values: [float(v) if np.isfinite(v) else None for v in values]
    self.content["lines"].append({
        "step": step, "steps": window.loss.shape[1], "seconds": max(now - self._begun, 1e-9),
        "loss": number(window.loss.mean(1)), "grad_norm": number(window.grad_norm.mean(1)),
        "level_error": window.level_error.sum(1).round(6).tolist(),
        "level_count": window.level_count.sum(1).tolist()})
    self._window, self._begun = [], now


def _read(file: pathlib.Path) -> dict[str, Any]:
  """What `History.write` has written; raises ValueError where it is damaged, with the remedy."""
  try:
    found = records.read_json(file, lines=list, points=list, failed=dict)
    for entries, names in (
        (found["lines"], ("steps", "seconds", "loss", "grad_norm", "level_error", "level_count")),
        (found["points"], ("values",)), (found["failed"].values(), ("error",))):
      for entry in entries:
        if not (isinstance(entry, dict) and type(entry.get("step")) is int
                and entry.keys() >= set(names)):
          raise ValueError(f"{file} is damaged: it has an entry without step, {', '.join(names)}")
  except ValueError as error:
    raise ValueError(f"{error}; delete {file.parent} to train this group again") from error
  return found
