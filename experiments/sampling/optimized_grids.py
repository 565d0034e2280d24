"""Grids optimised for a trained run and a sampler, kept in its workdir as grids.json.

`--grid=optimised(20)` becomes `--grid=explicit(…)` with the levels found: what is optimised once is
the same grid ever after, and a killed command goes on with it.
"""

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
from experiments.run import assembly, multihost, progress, records
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import paths

# Starting states, and the seed of their noise.
_STATES, _SEED = 128, 0


def resolved(
    run: assembly.Run, params: Any, step: int, config: config_lib.Config, path: paths.Path,
    workdir: pathlib.Path, *, ema: str,
) -> config_lib.Config:
  """`config` with levels in the place of an optimised grid; another grid is left as it is.

  `ema` names the average that `params` are: each has its own grids.
  """
  sampling = config.sampling
  if sampling.grid.name != "optimised":
    return config
  choices = {"path": config.path, "sampler": sampling.sampler, "grid": sampling.grid,
             "guidance": sampling.guidance}
  key = json.dumps({"step": step, "ema": ema} | {
      name: str(call) for name, call in choices.items()}, sort_keys=True)
  if run.mesh.size > 1:
    run, params = assembly.alone(run), multihost.fetch(params)
  find = lambda: _kept(
      workdir / "grids.json", key, lambda: _optimise(run, params, sampling, path))
  levels = _told(multihost.by_first(find))
  grid = calls.make(f"explicit({levels})", "grid", "config.sampling.grid")
  return dataclasses.replace(config, sampling=dataclasses.replace(sampling, grid=grid))


def _kept(file: pathlib.Path, key: str, make: Callable[[], list[float]]) -> list[float]:
  """The levels of `key` in `file`, made and added if they are not there.

  Of two commands that make the same at once, the first that is done is kept, and used by both.
  """
  known = _read(file)
  if key in known:
    return known[key]
  made = make()
  with file.with_name(".grids.lock").open("a", encoding="utf-8") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, or with the process
    known = _read(file)
    if key not in known:
      known[key] = made
      records.write_text(file, json.dumps(known, indent=2) + "\n")
  return known[key]


def _read(file: pathlib.Path) -> dict[str, list[float]]:
  """The grids in `file`, none where there is no such file.

  Raises:
    ValueError: it is cut or edited into what are no levels; names the file.
  """
  try:
    known = records.read_json(file) if file.is_file() else {}
    for levels in known.values():
      if not (isinstance(levels, list) and levels and all(
          isinstance(rho, float) and 0.0 < rho < float("inf") for rho in levels)
              and levels == sorted(set(levels), reverse=True)):
        raise ValueError(f"{file} is damaged: it holds {levels!r:.60}, no falling levels")
  except ValueError as error:
    raise ValueError(f"{error}; delete it, and grids are optimised again") from error
  return known


def _told(levels: list[float] | None) -> tuple[float, ...]:
  """Process 0's levels on every process, to the last bit; its disk may be ahead of theirs."""
  n = int(multihost.broadcast(np.uint32(len(levels or ()))))
  # As words: jax would round float64.
  words = np.asarray(levels or [0.0] * n, np.float64).view(np.uint32)
  return tuple(np.ascontiguousarray(multihost.broadcast(words)).view(np.float64).tolist())


def _optimise(run, params, sampling, path) -> list[float]:
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
