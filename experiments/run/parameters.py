"""Parameters of a network from one run, or file, to another: `--init_from` and `export`.

A parameter is known by its path in the network's tree, such as blocks/qkv/kernel.
"""

import fnmatch
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.flax

from experiments import config as config_lib
from experiments.run import assembly, checkpoints, files, multihost
from langevin_jax import training

SUFFIXES = (".safetensors", ".npz")
_SHOWN = 5


class Source(NamedTuple):
  """Parameters to begin from.

  arrays: by path. facts: where they come from, for the manifest. prediction: the row that they were
  trained to predict, as a config has it; None of a file, which does not say.
  """

  arrays: dict[str, np.ndarray]
  facts: dict[str, Any]
  prediction: Any = None


def write(file: pathlib.Path, params: Any) -> None:
  """Writes parameters to a .safetensors or .npz file.

  Raises:
    ValueError: another suffix, or a dtype that .npz has not.
  """
  arrays = {name: np.asarray(leaf) for name, leaf in checkpoints.by_path(params).items()}
  if file.suffix == ".safetensors":
    with files.written(file) as stream:
      stream.write(safetensors.flax.save(dict(arrays), metadata={"format": "flax"}))
  elif file.suffix == ".npz":
    if other := [name for name, array in arrays.items() if array.dtype.kind == "V"]:
      raise ValueError(f"--out {file}: {other[0]} is {arrays[other[0]].dtype}, which .npz cannot "
                       "hold; write a .safetensors file")
    with files.written(file) as stream:
      np.savez(stream, **arrays)
  else:
    raise ValueError(f"--out must end in {' or '.join(SUFFIXES)}, got {file}")


def read(place: pathlib.Path) -> Source:
  """The parameters in a .safetensors or .npz file, or those of a run: its first average.

  Args:
    place: a file, a workdir (its newest checkpoint), or one of its checkpoints, such as
      runs/digits/checkpoints/3000.

  Raises:
    ValueError: none of these, or one that cannot be read.
  """
  if place.suffix in SUFFIXES and place.is_file():
    return _of_file(place)
  if (place / "checkpoints").is_dir():
    return _of_run(place, None)
  if place.parent.name == "checkpoints" and place.name.isdecimal() and place.is_dir():
    return _of_run(place.parent.parent, int(place.name))
  raise ValueError(f"--init_from={place} is no workdir with a checkpoint, no checkpoint and no "
                   f"{' or '.join(SUFFIXES)} file")


def _of_file(file: pathlib.Path) -> Source:
  try:
    if file.suffix == ".npz":
      with file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
          raise ValueError("it is no archive of arrays")
        stream.seek(0)
        arrays = dict(np.load(stream))
    else:
      arrays = {name: np.asarray(leaf) for name, leaf in safetensors.flax.load(
          file.read_bytes()).items()}
  except Exception as error:  # of zipfile, NumPy or safetensors
    raise ValueError(f"--init_from={file} cannot be read: {multihost.first_line(error)}") from error
  return Source(arrays, {"source": str(file)})


def _of_run(workdir: pathlib.Path, step: int | None) -> Source:
  reader = lambda manager, step, target: (step, checkpoints.read_average(manager, step))
  with checkpoints.manager(workdir, keep=1, read_only=True) as manager:
    try:
      found = (checkpoints.restore(manager, None, reader=reader) if step is None
               else reader(manager, step, None))
    except checkpoints.Damaged as error:
      raise ValueError(f"--init_from: the checkpoint of step {step} in {workdir} is damaged "
                       f"({error})") from error
    if found is None:
      raise ValueError(f"--init_from={workdir} has no checkpoint yet")
    step, params = found
    names, _ = checkpoints.names_of(manager, step)
  arrays = {name: np.asarray(leaf) for name, leaf in checkpoints.by_path(params).items()}
  objective = files.read_json(workdir / "config.json", objective=dict)["objective"]
  return Source(arrays, {"source": str(workdir), "step": step,
                         "average": names[0] if names else "the first"}, objective["prediction"])


def start_from(
    run: assembly.Run, source: Source, skip: Sequence[str] = ()
) -> tuple[training.TrainState, dict[str, Any]]:
  """The state before the first step with the parameters of `source`, and what the manifest records.

  Averages start as these parameters, the optimizer afresh.

  Args:
    skip: patterns (fnmatch) of paths that are not loaded: of the source they are left out, of the
      network they keep their initial values.

  Raises:
    ValueError: as `fitting`.
  """
  loaded, skipped = fitting(run, source, skip)
  # Initial values are computed where some are kept.
  initial = (assembly.start(run) if skipped else assembly.abstract_state(run)).params
  leaves = [leaf if name in skipped else _placed(leaf, source.arrays[name])
            for name, leaf in checkpoints.by_path(initial).items()]
  params = jax.tree.unflatten(jax.tree.structure(initial), leaves)
  places = jax.tree.map(lambda leaf: leaf.sharding, assembly.abstract_state(run))
  state = jax.jit(
      lambda params: training.init(
          params, run.optimizer, averages=len(run.averages), loss=run.loss),
      out_shardings=places)(params)
  return state, source.facts | {
      "loaded": len(loaded), "skipped": [name for name in source.arrays if name in skipped],
      "fresh": [name for name in checkpoints.by_path(initial) if name in skipped]}


def fitting(
    run: assembly.Run, source: Source, skip: Sequence[str] = ()
) -> tuple[list[str], set[str]]:
  """(paths of the parameters that a run takes from `source`, those that `skip` leaves out).

  Raises:
    ValueError: a parameter that the other side lacks, or that has another shape there, and that no
      pattern skips; a pattern that matches nothing; nothing to load; another prediction, unless a
      pattern skips something.
  """
  prediction = config_lib.to_plain(run.config.objective)["prediction"]
  if not skip and source.prediction not in (None, prediction):
    raise ValueError(
        f"--init_from: these parameters predict {_call(source.prediction)}, this run predicts "
        f"{_call(prediction)}: set --config.objective.prediction, or skip the head by --init_skip")
  target = checkpoints.by_path(assembly.abstract_state(run).params)
  skipped = _skipped(target, source, skip)
  _check_fit(target, source, skipped)
  loaded = [name for name in target if name not in skipped]
  if not loaded:
    raise ValueError("--init_skip leaves no parameter to load")
  return loaded, skipped


def _call(plain: dict[str, Any]) -> str:
  """A call of a config, as its name and arguments."""
  return f"{plain['call']}({', '.join(f'{k}={v}' for k, v in plain.items() if k != 'call')})"


def described(facts: dict[str, Any]) -> str:
  """One line: what was loaded, skipped and is fresh."""
  few = lambda names: f"{len(names)}" + (f" ({_few(names)})" if names else "")
  at = f" at step {facts['step']} ({facts['average']})" if "step" in facts else ""
  return (f"begins from {facts['source']}{at}: {facts['loaded']} parameters loaded, "
          f"{few(facts['skipped'])} skipped, {few(facts['fresh'])} fresh")


def _skipped(target: dict[str, Any], source: Source, patterns: Sequence[str]) -> set[str]:
  names = sorted(target.keys() | source.arrays.keys())
  found: set[str] = set()
  for pattern in patterns:
    matching = fnmatch.filter(names, pattern)
    if not matching:
      raise ValueError(f"--init_skip: {pattern!r} matches no parameter; there are {_few(names)}")
    found.update(matching)
  return found


def _check_fit(target: dict[str, Any], source: Source, skipped: set[str]) -> None:
  shape = lambda side, name: list(side[name].shape) if name in side else "none"
  wrong = [f"{name} {shape(source.arrays, name)} → {shape(target, name)}"
           for name in sorted(target.keys() | source.arrays.keys()) if name not in skipped
           and shape(source.arrays, name) != shape(target, name)]
  if wrong:
    pattern = wrong[0].split(" ")[0]
    raise ValueError(
        f"--init_from={source.facts['source']}: {len(wrong)} parameters do not fit (source → this "
        f"network): {'; '.join(wrong[:_SHOWN])}{'; …' if len(wrong) > _SHOWN else ''}. "
        f"--init_skip='{pattern}' would leave the first out")


def _placed(leaf: jax.Array, array: np.ndarray) -> jax.Array:
  """The array in the dtype and on the devices of `leaf`."""
  array = array.astype(leaf.dtype)
  return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])


def _few(names: Sequence[str]) -> str:
  return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
