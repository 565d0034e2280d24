"""The record of a run's data: for use of the model without the data, and to detect changes.

`data.json` in the workdir holds the shape, kind, units, value range, class names, conditions,
number of examples and fingerprint. `data_moments.npy` holds the mean and variances in standard
units. `autoencoder.*` belongs to a model of latents (`codecs`). All are written before the first
step. Sampling, likelihoods and loaded models use them.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import config as config_lib
from experiments.data import codecs
from experiments.data import dataset as datasets
from experiments.run import records

FILE, MOMENTS = "data.json", "data_moments.npy"
_MOST_NAMES = 3  # in a message


def claim(workdir: pathlib.Path, dataset: datasets.Dataset) -> None:
  """Writes the record of a run's data; if the run has begun, checks the data against it.

  Raises:
    ValueError: the data have changed since the run began; the message lists the differences.
  """
  if _has_begun(workdir):
    check(workdir, dataset)
    return
  with records.written(workdir / MOMENTS) as stream:
    np.save(stream, np.stack(datasets.moments(dataset)))
  if dataset.codec is not None:
    codecs.write(dataset.codec, workdir)
  records.write_text(workdir / FILE, json.dumps(
      _facts(dataset) | {"origin": dataset.origin, "fingerprint": datasets.fingerprint(dataset)},
      indent=1) + "\n")


def load(workdir: pathlib.Path, call: config_lib.Call) -> datasets.Dataset:
  """The data of a run; in the recorded units if the run has begun.

  The reason: a mean that is computed again on another machine may differ in its last digits.

  Raises:
    ValueError: as `data.load`.
  """
  return datasets.load(call, units=_units(_read(workdir)) if _has_begun(workdir) else None)


def _has_begun(workdir: pathlib.Path) -> bool:
  """Whether the run has a record of its data and a checkpoint."""
  return (workdir / FILE).is_file() and any(
      step.name.isdigit() for step in (workdir / "checkpoints").glob("*"))


def _units(recorded: dict[str, Any]) -> datasets.Units:
  """(mean, scale) of a record."""
  return np.asarray(recorded["mean"], np.float64), np.asarray(recorded["scale"], np.float64)


# Facts of which earlier versions have no record.
_NEW = {"conditions": {}, "condition_classes": {}, "vocabulary": [], "origin": "", "latents": False}


def _facts(dataset: datasets.Dataset) -> dict[str, Any]:
  """The content of data.json for a data set, without the fingerprint."""
  value_range = dataset.value_range
  return {
      "kind": dataset.kind, "shape": list(dataset.train.shape[1:]),
      "num_classes": dataset.num_classes, "classes": list(dataset.classes),
      "mean": np.asarray(dataset.mean).tolist(), "scale": np.asarray(dataset.scale).tolist(),
      "value_range": None if value_range is None else list(value_range),
      "integers": bool(dataset.integers),
      "examples": [len(dataset.train), len(dataset.test)],
      "conditions": {name: [list(value.shape[1:]), str(value.dtype)]
                     for name, value in dataset.conditions.items()},
      "condition_classes": dict(dataset.condition_classes),
      "vocabulary": list(dataset.vocabulary), "latents": dataset.codec is not None}


def read(workdir: pathlib.Path) -> datasets.Dataset:
  """The data set of a run without examples, from the record.

  Raises:
    ValueError: a file is missing or damaged; the message names it.
  """
  recorded = _read(workdir)
  shape = tuple(recorded["shape"])
  no_x = np.zeros((0, *shape), np.int32 if recorded["vocabulary"] else np.float32)
  no_labels = np.zeros(0, np.int32)
  try:
    moments = np.array(records.load(workdir / MOMENTS))
    if moments.shape != (2, *shape):
      raise ValueError(f"it has the shape {moments.shape} in place of {(2, *shape)}")
    if not np.isfinite(moments).all():
      raise ValueError("it has values that are not finite")
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"{workdir / MOMENTS} is damaged: {error}") from error
  conditions = {name: np.zeros((0, *shape), dtype)
                for name, (shape, dtype) in recorded["conditions"].items()}
  return datasets.Dataset(
      no_x, no_labels, no_x, no_labels, recorded["num_classes"], *_units(recorded),
      recorded["kind"], recorded["value_range"] and tuple(recorded["value_range"]),
      recorded["integers"], tuple(recorded["classes"]), moments=(moments[0], moments[1]),
      conditions=conditions, test_conditions=conditions,
      condition_classes=recorded["condition_classes"], vocabulary=tuple(recorded["vocabulary"]),
      origin=recorded["origin"], codec=codecs.read(workdir) if recorded["latents"] else None)


def check(workdir: pathlib.Path, dataset: datasets.Dataset) -> None:
  """Raises ValueError if the data are not those of the run; the message lists the differences."""
  recorded = _read(workdir)
  changes = differences(recorded["fingerprint"], datasets.fingerprint(dataset))
  for name, value in _facts(dataset).items():
    old = recorded[name]
    same = (np.shape(value) == np.shape(old) and np.allclose(value, old, 1e-6, 0.0)
            if name in ("mean", "scale") else value == old)
    if not same:
      changes.append(f"{name} {_different(old, value)}")
  if changes:
    raise ValueError(f"the data are not those that {workdir} was trained on: {'; '.join(changes)}")


def with_examples(
    workdir: pathlib.Path, call: config_lib.Call, *, needed_by: str = ""
) -> tuple[datasets.Dataset, str]:
  """(the data set of a run, ""); if the data are missing or changed, (that of `read`, the reason).

  Args:
    needed_by: a flag that needs the examples, or "".

  Raises:
    ValueError: the examples are needed, and are missing or changed.
  """
  recorded = read(workdir)
  try:
    loaded = datasets.load(call, units=(recorded.mean, recorded.scale))
    check(workdir, loaded)
  except Exception as error:  # a user's function may raise anything
    if needed_by:
      raise ValueError(f"{needed_by} needs the data of the run: {error}") from error
    return recorded, str(error)
  return recorded._replace(
      train=loaded.train, train_labels=loaded.train_labels, test=loaded.test,
      test_labels=loaded.test_labels, conditions=loaded.conditions,
      test_conditions=loaded.test_conditions), ""


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
  """The differences between two fingerprints as texts; empty if they are equal.

  Shards of the same content are equal, whatever their number.
  """
  if "shards" in old and "shards" in new:
    if old["shards"] == new["shards"]:
      return []
    if len(old) > 1 < len(new):
      old, new = ({name: value for name, value in each.items() if name != "shards"}
                  for each in (old, new))
    else:  # one fingerprint is from an earlier version, without digests of files
      old, new = {"shards": old["shards"]}, {"shards": new["shards"]}
  changed = [name for name in old if name in new and old[name] != new[name]]
  parts = {"added": [name for name in new if name not in old],
           "removed": [name for name in old if name not in new], "changed": changed}
  return [f"{len(names)} {change} ({_few(names)})" for change, names in parts.items() if names]


def _different(old: Any, new: Any) -> str:
  """What was added and removed, of two lists of names; "old → new" of all else."""
  lists = isinstance(old, (list, tuple)) and isinstance(new, (list, tuple))
  if lists and all(isinstance(each, str) for each in (*old, *new)) and set(old) != set(new):
    parts = {"without": [each for each in old if each not in new],
             "with": [each for each in new if each not in old]}
    return " and ".join(f"{how} {_few(names)}" for how, names in parts.items() if names)
  return f"{_few(old)} → {_few(new)}"


def _few(names: Any) -> str:
  """The first names, or a single value, as text."""
  if isinstance(names, dict):
    names = [f"{name} {tuple(shape)} {dtype}" for name, (shape, dtype) in names.items()] or ["none"]
  names = list(map(str, names)) if isinstance(names, (list, tuple)) else [str(names)]
  return ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")


def _read(workdir: pathlib.Path) -> dict[str, Any]:
  """The content of data.json; raises ValueError if it is missing or damaged."""
  file = workdir / FILE
  if not file.is_file():
    raise ValueError(f"{workdir} has no {FILE}: training has not begun there")
  recorded = _NEW | records.read_json(
      file, kind=str, shape=list, num_classes=int, classes=list, integers=bool, examples=list,
      fingerprint=dict)
  for name in ("mean", "scale"):
    try:
      finite = np.isfinite(np.asarray(recorded[name], float)).all()
    except (KeyError, TypeError, ValueError):
      finite = False
    if not finite:
      raise ValueError(f"{file} is damaged: {name} is not finite")
  return recorded
