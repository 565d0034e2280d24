"""Flags for the condition of samples: labels, or named arrays of the data.

`--label` is one class for all samples, by number or name, or none. `--condition` is a .npz of
arrays by name, for one example or for each sample; or `label=CLASS`; or null for no condition.
"""

from typing import Any

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.data import readers
from experiments.run import assembly, conditions
from experiments.sampling import inpaint, samplers_from_config

_LABEL = flags.DEFINE_string(
    "label", "", "One class for all samples, by number or name, or none for the model without "
    "labels. If not given, samples take all classes in turn; inpainted samples take the labels of "
    "held_out, or none.")
_CONDITION = flags.DEFINE_string(
    "condition", "", "For a model with named conditions: a .npz of arrays by name, label=CLASS, or "
    "null. If not given, samples take the conditions of training examples in turn.")


def requested(
    run: assembly.Run, sampling: config_lib.Sampling, n: int, *, given: bool, held_out: bool,
    of_codes: Any = None,
) -> tuple[Any, Any]:
  """(the condition of n samples: labels (n,) or named arrays (n, …); its text for the record).

  Args:
    given: whether samples have known values or initial states. Without flags they then have no
      condition, or that of the held-out examples.
    held_out: whether those values are the held-out examples.
    of_codes: the condition with which initial states were encoded, if it is known.

  Raises:
    ValueError: flags that the model does not use, or a class or arrays that it does not have.
  """
  label, condition = _LABEL.value, _CONDITION.value
  if label and condition:
    raise ValueError("--label and --condition exclude each other: give one of them")
  if condition.startswith("label="):
    label, condition = condition.removeprefix("label="), ""
  if condition == "null":
    label, condition = "none", ""
  dataset, dropout = run.dataset, run.config.training.label_dropout
  if of_codes is not None and not label and not condition:
    numbers = class_numbers(dataset, of_codes, n)
    some_without = bool((numbers == dataset.num_classes).any())
    assembly.check_labels(run, sampling, unlabelled=some_without and not (
        samplers_from_config.is_guided(sampling)))
    of_one = dataset.num_classes > numbers[0] and (numbers == numbers[0]).all()
    return of_codes, dataset.classes[numbers[0]] if of_one else "those of the codes"
  unconditional = label == "none" or bool(
      given and not label and not condition and not held_out)
  assembly.check_labels(run, sampling, unlabelled=unconditional)
  if condition:
    if not dataset.conditions:
      raise ValueError(f"--condition={condition} needs a model with named conditions; this one has "
                       f"{'labels: give --label' if dataset.num_classes else 'none'}")
    return _read(condition, dataset, n, dropout), condition
  number = None if unconditional or not label else _class_number(run, label)
  class_name = dataset.classes[number] if number is not None else None
  if dataset.conditions:
    if unconditional or number is not None:
      values = {} if unconditional else {"label": number}
      return conditions.given(dataset, values, n, dropout=dropout), class_name
    if given:
      index = np.arange(n) % data.count_in_memory(dataset.test)
      return conditions.of_examples(dataset, index, held_out=True), "held out"
    return assembly.even_labels(run, n), "training examples in turn"
  if unconditional:
    return np.full(n, dataset.num_classes, np.int32), None
  if number is not None:
    return np.full(n, number, np.int32), class_name
  if given and dataset.num_classes:
    return inpaint.held_out_labels(run, n), "held out"
  return assembly.even_labels(run, n), "all classes in turn" if dataset.num_classes else None


def class_numbers(dataset: data.Dataset, condition: Any, n: int) -> np.ndarray:
  """The class numbers (n,) of a condition; `num_classes` for samples without a class."""
  if not isinstance(condition, dict):
    return condition
  none = np.full(n, dataset.num_classes, np.int32)
  if "label" not in condition:
    return none
  return np.where(condition.get("label_mask", True), condition["label"], none)


def _read(file: str, dataset: data.Dataset, n: int, dropout: float) -> dict[str, np.ndarray]:
  """The named arrays (n, …) of a .npz; raises ValueError if they do not fit the data."""
  found = readers.read_numpy(file, "--condition")
  if isinstance(found, np.ndarray):
    name = next(iter(conditions.kinds(dataset)))
    raise ValueError(f"--condition={file} is one array; give an .npz of arrays by name, such as "
                     f"np.savez('condition.npz', {name}=array)")
  try:
    return conditions.given(dataset, found, n, dropout=dropout)
  except ValueError as error:
    raise ValueError(f"--condition={file}: {error}") from error


def _class_number(run: assembly.Run, value: str) -> int:
  """The number of the class with the number or name `value`; raises ValueError if none has."""
  classes, names = run.dataset.num_classes, run.dataset.classes
  number = names.index(value) if value in names else int(value) if value.isdecimal() else classes
  if number >= classes:
    few = "" if not names or names[0].isdecimal() else (
        ", ".join(names[:10]) + (", …, " if len(names) > 10 else ", "))
    allowed = f"a class in 0 … {classes - 1}, {few}or none" if classes else (
        "left out: the data of this run have no labels")
    flag = "--condition: label" if _CONDITION.value else "--label"
    raise ValueError(f"{flag} must be {allowed}; got {value!r}")
  return number
