"""What a run keeps of its data: enough to use the model without them, and to see that they changed.

`data.json` in the workdir holds shape, kind, units, value range, class names, how many examples
there are, and a fingerprint; `data_moments.npy` mean and variances in standard units. They are
written before the first step; samples, likelihoods and loaded models use what they say.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import config as config_lib
from experiments.data import dataset as datasets
from experiments.run import records

FILE, MOMENTS = "data.json", "data_moments.npy"
_SHOWN = 3


def claim(workdir: pathlib.Path, dataset: datasets.Dataset) -> None:
  """Keeps the facts of a run's data, or checks that the data are those of the run.

  Raises:
    ValueError: the data have changed since the run began; says in one line what differs.
  """
  begun = any(step.name.isdigit() for step in (workdir / "checkpoints").glob("*"))
  if (workdir / FILE).is_file() and begun:
    check(workdir, dataset)
    return
  np.save(workdir / MOMENTS, np.stack(datasets.moments(dataset)))
  records.write_text(workdir / FILE, json.dumps(
      _facts(dataset) | {"fingerprint": datasets.fingerprint(dataset)}, indent=1) + "\n")


def _facts(dataset: datasets.Dataset) -> dict[str, Any]:
  """What JSON says of a data set."""
  plain = lambda value: value if value is None else list(value)
  return {
      "kind": dataset.kind, "shape": list(dataset.train.shape[1:]),
      "num_classes": dataset.num_classes, "classes": list(dataset.classes),
      "mean": np.asarray(dataset.mean).tolist(), "scale": np.asarray(dataset.scale).tolist(),
      "value_range": plain(dataset.value_range), "integers": bool(dataset.integers),
      "examples": [len(dataset.train), len(dataset.test)]}


def read(workdir: pathlib.Path) -> datasets.Dataset:
  """The data set of a run without its examples: what samples and likelihoods need of it.

  Raises:
    ValueError: the workdir has no such file, or one that is damaged; names it.
  """
  found = _read(workdir)
  shape, classes = tuple(found["shape"]), found["num_classes"]
  none, label = np.zeros((0, *shape), np.float32), np.zeros(0, np.int32)
  try:
    moments = np.load(workdir / MOMENTS)
    if moments.shape != (2, *shape):
      raise ValueError(f"it has the shape {moments.shape} in place of {(2, *shape)}")
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"{workdir / MOMENTS} is damaged: {error}") from error
  return datasets.Dataset(
      none, label, none, label, classes, np.asarray(found["mean"], np.float64),
      np.asarray(found["scale"], np.float64), found["kind"],
      found["value_range"] and tuple(found["value_range"]), found["integers"],
      tuple(found["classes"]), moments=(moments[0], moments[1]))


def check(workdir: pathlib.Path, dataset: datasets.Dataset) -> None:
  """Raises ValueError where the data are not those of the run; says in one line what differs."""
  found, now = _read(workdir), _facts(dataset)
  changes = differences(found["fingerprint"], datasets.fingerprint(dataset))
  for name, value in now.items():
    same = (np.shape(value) == np.shape(found[name]) and np.allclose(value, found[name], 1e-6, 0.0)
            if name in ("mean", "scale") else value == found[name])
    if not same:
      changes.append(f"{name} {_few(found[name])} → {_few(value)}")
  if changes:
    raise ValueError(f"the data are not those that {workdir} was trained on: {'; '.join(changes)}")


def with_examples(
    workdir: pathlib.Path, call: config_lib.Call, *, needed_by: str = ""
) -> tuple[datasets.Dataset, str]:
  """(`read` with the run's own examples, "") where they are here and unchanged, else (`read`, why).

  Raises:
    ValueError: `needed_by` names a flag that works on the data, and they are gone or changed.
  """
  kept = read(workdir)
  try:
    found = datasets.load(call)
    check(workdir, found)
  except Exception as error:  # whatever the user's own function raises
    if needed_by:
      raise ValueError(f"{needed_by} needs the data of the run: {error}") from error
    return kept, str(error)
  return kept._replace(train=found.train, train_labels=found.train_labels, test=found.test,
                       test_labels=found.test_labels), ""


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
  """What differs between two fingerprints, file by file."""
  changed = [name for name in old if name in new and old[name] != new[name]]
  parts = {"added": [name for name in new if name not in old],
           "removed": [name for name in old if name not in new], "changed": changed}
  return [f"{len(names)} {what} ({_few(names)})" for what, names in parts.items() if names]


def _few(names: Any) -> str:
  names = list(map(str, names)) if isinstance(names, (list, tuple)) else [str(names)]
  return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _read(workdir: pathlib.Path) -> dict[str, Any]:
  file = workdir / FILE
  if not file.is_file():
    raise ValueError(f"{workdir} has no {FILE}: training has not begun there")
  return records.read_json(
      file, kind=str, shape=list, num_classes=int, classes=list, integers=bool, examples=list,
      fingerprint=dict)
