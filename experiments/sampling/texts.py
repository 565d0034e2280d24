"""Samples of tokens as text: files beside the .npy, and lines for the terminal."""

import pathlib
from typing import Any

import numpy as np

from experiments import data
from experiments.data import text
from experiments.run import records

# Samples in the terminal, trajectories in their file, and states of a trajectory.
_PRINTED, TRAJECTORIES, _STATES = 2, 4, 12


def write(file: pathlib.Path, dataset: data.Dataset, x: np.ndarray) -> None:
  """Writes samples (n, length), each below a line with its number."""
  records.write_text(file, "".join(
      f"{_ruler(f'sample {i}')}\n{text.decode(tokens, dataset.vocabulary)}\n"
      for i, tokens in enumerate(x)))


def write_trajectory(
    file: pathlib.Path, dataset: data.Dataset, t: np.ndarray, states: np.ndarray
) -> None:
  """Writes trajectories (steps + 1, n, length), some states of each; a mask is shown as ░."""
  shown = np.unique(np.linspace(0, len(states) - 1, _STATES).round().astype(int))
  records.write_text(file, "".join(
      f"{_ruler(f'sample {i}, step {k}, t = {t[k]:.3g}')}\n"
      f"{text.decode(states[k, i], dataset.vocabulary)}\n"
      for i in range(states.shape[1]) for k in shown))


def show(dataset: data.Dataset, x: np.ndarray) -> None:
  """Prints the first samples."""
  for i, tokens in enumerate(x[:_PRINTED]):
    print(f"{_ruler(f'sample {i}')}\n{text.decode(tokens, dataset.vocabulary)}", flush=True)
  if len(x):
    print(_ruler(""))


def levels(clock: Any, t: np.ndarray) -> dict[str, list[float]]:
  """t, α and 1 − α of the states of a trajectory, for JSON."""
  alpha, sigma = (np.asarray([float(f(value)) for value in t]) for f in (clock.alpha, clock.sigma))
  return {"t": t.astype(float).tolist(), "alpha": alpha.tolist(), "sigma": sigma.tolist()}


def _ruler(title: str) -> str:
  return f"── {title} ".ljust(60, "─") if title else "─" * 60
