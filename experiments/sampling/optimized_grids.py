"""Grids optimised for a trained run and a sampler, stored in its workdir as grids.json.

`--grid=optimised(20)` becomes `--grid=explicit(…)` with the optimised levels. Each grid is
optimised once. Later commands, also a command that was killed, read it from the file.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import calls
from experiments.run import assembly, buckets, multihost, progress, records
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import paths

# The number of initial states, and the seed of their noise.
_STATES, _SEED = 128, 0


def resolve(
    run: assembly.Run, params: Any, step: int, config: config_lib.Config, path: paths.Path,
    workdir: pathlib.Path, *, ema: str,
) -> config_lib.Config:
  """`config` with an optimised grid replaced by its levels; other grids are not changed.

  Args:
    ema: the name of the average that `params` are. Each average has its own grids.
  """
  sampling = config.sampling
  if sampling.grid.name != "optimised":
    return config
  choices = {"path": config.path, "sampler": sampling.sampler, "grid": sampling.grid,
             "guidance": sampling.guidance} | ({"clip": True} if sampling.clip else {})
  key = json.dumps({"step": step, "ema": ema} | {
      name: str(call) for name, call in choices.items()}, sort_keys=True)
  if run.mesh.size > 1:
    run, params = assembly.alone(run), multihost.fetch(params)
  read_or_optimise = lambda: _read_or_make(
      workdir / "grids.json", key, lambda: _optimise(run, params, sampling, path))
  levels = _broadcast(multihost.by_first(read_or_optimise))
  grid = calls.make(f"explicit({levels})", "grid", "config.sampling.grid")
  return dataclasses.replace(config, sampling=dataclasses.replace(sampling, grid=grid))


def _read_or_make(file: pathlib.Path, key: str, make: Callable[[], list[float]]) -> list[float]:
  """The levels of `key` in `file`. If there are none, `make` computes them and they are added.

  If two commands compute the same grid at once, both use the one that is stored first.
  """
  grids = _read(file)
  if key in grids:
    return grids[key]
  levels = make()
  with contextlib.ExitStack() as stack:
    if not buckets.is_bucket(file):  # in a bucket two commands at once write the same levels
      lock = stack.enter_context(file.with_name(".grids.lock").open("a", encoding="utf-8"))
      fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed or the process ends
    grids = _read(file)
    if key not in grids:
      grids[key] = levels
      records.write_text(file, json.dumps(grids, indent=2) + "\n")
  return grids[key]


def _read(file: pathlib.Path) -> dict[str, list[float]]:
  """The grids in `file`, falling levels ρ by key; empty if there is no such file.

  Raises:
    ValueError: the file is damaged; the message names it.
  """
  try:
    grids = records.read_json(file) if file.is_file() else {}
    for levels in grids.values():
      if not (isinstance(levels, list) and levels and all(
          isinstance(rho, float) and 0.0 < rho < float("inf") for rho in levels)
              and levels == sorted(set(levels), reverse=True)):
        raise ValueError(f"{file} is damaged: it holds {levels!r:.60}, no falling levels")
  except ValueError as error:
    raise ValueError(f"{error}; delete it, and grids are optimised again") from error
  return grids


def _broadcast(levels: list[float] | None) -> tuple[float, ...]:
  """The levels of process 0, on every process, bit by bit.

  They are broadcast because the other processes may not see its file yet.
  """
  n = int(multihost.broadcast(np.uint32(len(levels or ()))))
  # Broadcast as 32-bit words: jax would round float64.
  words = np.asarray(levels or [0.0] * n, np.float64).view(np.uint32)
  return tuple(np.ascontiguousarray(multihost.broadcast(words)).view(np.float64).tolist())


def _optimise(run, params, sampling, path) -> list[float]:
  """Falling levels ρ > 0 of the optimised grid."""
  shape = (_STATES, *run.dataset.train.shape[1:])
  labels = jnp.asarray(assembly.even_labels(run, _STATES))
  total = sampling.grid["rounds"] + 1
  with progress.bar(total, 0, f"optimising {sampling.grid['n']} levels") as bar:
    done = 0

    def report(solves: int, error: float) -> None:
      nonlocal done
      done += 1
      bar(done, f"error {error:.4g} after {solves} solves")

    grid = calls.build(
        sampling.grid, "grid", "config.sampling.grid", key=jax.random.key(_SEED), path=path,
        denoise=drawing.denoiser(run, params, path, labels, sampling), shape=shape,
        method=samplers_from_config.method(sampling), progress=report)
  return [float(rho) for rho in grid(path)[:-1]]
