"""What samples of a run are conditioned on: labels, or the named arrays of its data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from langevin_jax import conditions

if TYPE_CHECKING:
  from experiments.data import Dataset


def kinds(dataset: "Dataset") -> dict[str, conditions.Kind]:
  """The kinds of the named conditions that a batch has, with "label" where there are classes."""
  found = {}
  for name, value in dataset.conditions.items():
    if not conditions.is_mask(name, dataset.conditions):
      classes = 2 if value.dtype == bool else dataset.condition_classes.get(name, 0)
      found[name] = conditions.Kind(tuple(value.shape[1:]), classes)
  return found | ({"label": conditions.Kind((), dataset.num_classes)}
                  if found and dataset.num_classes else {})


def of_examples(
    dataset: "Dataset", index: np.ndarray, *, held_out: bool = False
) -> dict[str, np.ndarray]:
  """The named conditions of training or held-out examples.

  Raises:
    ValueError: the examples are not here.
  """
  if not len(dataset.train):
    raise ValueError("the model has named conditions, and the data that have them are not here; "
                     f"give {', '.join(kinds(dataset))} with --condition=file.npz, or "
                     "--condition=null")
  named = dataset.test_conditions if held_out else dataset.conditions
  found = {name: value[index] for name, value in named.items()}
  if dataset.num_classes:
    found["label"] = (dataset.test_labels if held_out else dataset.train_labels)[index]
  return found


def given(
    dataset: "Dataset", arrays: Mapping[str, Any] | None, n: int, *, dropout: float,
) -> dict[str, np.ndarray]:
  """A condition of n samples from named arrays. What has no array is not given; None: nothing is.

  Args:
    arrays: (n, *shape) or, for all samples, (*shape); masks `name_mask` of some, booleans, in the
      same way.
    dropout: `training.label_dropout` of the run. With 0 it knows no example without a condition.

  Raises:
    ValueError: a condition that must be given and is not, an unknown name, or an array of another
      shape, dtype or range, or that is not finite; says what it must be.
  """
  of, arrays, found = kinds(dataset), dict(arrays or {}), {}
  if conditions.AUGMENTATION in of:  # samples are not changed
    arrays.setdefault(conditions.AUGMENTATION, np.zeros(of[conditions.AUGMENTATION].shape))
  for name in arrays:
    if name not in of and name.removesuffix(conditions.MASK) not in of:
      raise ValueError(f"condition: the model has no {name!r}; it has {', '.join(of)}, and "
                       f"{', '.join(each + conditions.MASK for each in of)}")
    if name not in of and name.removesuffix(conditions.MASK) not in arrays:
      raise ValueError(f"condition {name!r} masks {name.removesuffix(conditions.MASK)!r}, which is "
                       "not there")
  if not dropout > 0.0 and (missing := [name for name in of if name not in arrays]):
    raise ValueError(f"condition {missing[0]!r} must be given: the run was trained with "
                     "training.label_dropout=0, and never without it")
  for name, kind in of.items():
    mask = arrays.get(name + conditions.MASK, name in arrays)
    empty = np.zeros(kind.shape, int if kind.classes else float)
    value = as_array(f"condition {name!r}", arrays.get(name, empty))
    words = f"integers 0 … {kind.classes - 1}" if kind.classes else "real numbers"
    if value.shape not in (kind.shape, (n, *kind.shape)) or (
        value.dtype.kind not in ("biu" if kind.classes else "fiu")) or (
        kind.classes and not 0 <= value.min() <= value.max() < kind.classes):
      raise ValueError(f"condition {name!r} must be {words} of shape {(n, *kind.shape)} or "
                       f"{kind.shape}, got {value.dtype} of shape {value.shape}"
                       + (f", {value.min()} … {value.max()}" if kind.classes and (
                           value.dtype.kind in "iu") else ""))
    found[name] = np.broadcast_to(value, (n, *kind.shape)).astype(
        np.int32 if kind.classes else np.float32)
    if not np.isfinite(value).all():
      raise ValueError(f"condition {name!r} must be finite; {np.sum(~np.isfinite(value))} of its "
                       f"{value.size} numbers are not")
    found[name + conditions.MASK] = _mask(name, np.asarray(mask), value.shape, kind.shape, n)
  return jax.tree.map(np.asarray, conditions.complete(found))


def as_array(what: str, value: Any) -> np.ndarray:
  """`value` as an array. Raises ValueError for lists of several lengths."""
  try:
    return np.asarray(value)
  except ValueError:
    raise ValueError(f"{what} has lists of different lengths: make them equally long; a condition "
                     "may have a mask, name_mask, of what is there") from None


def _mask(
    name: str, mask: np.ndarray, given: tuple[int, ...], shape: tuple[int, ...], n: int
) -> np.ndarray:
  """The mask for n samples of one for all: a scalar, or that of an array `given` for one example.

  Raises:
    ValueError: it may be of each sample, or of each token of one example.
  """
  if mask.ndim and (given != shape or mask.shape != shape[:mask.ndim]):
    return mask
  if mask.ndim and mask.shape == (n,):
    raise ValueError(f"condition {name + conditions.MASK!r} of shape {(n,)} may be of {n} samples, "
                     f"or of one example: give {name!r} and its mask for each sample")
  return np.broadcast_to(mask, (n, *mask.shape))
