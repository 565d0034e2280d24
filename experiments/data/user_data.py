"""Converts the result of a user's data function (`--config.data`) into a source.

  def load(root): return {"train": x, "labels": y, "classes": ("cat", "dog"), "kind": "image"}
  def load(root): return MyDataset(root)   # with __len__ and __getitem__: see `items`

A dict may hold:

  train, test              arrays (n, *shape), or objects as in `items`. Without `test`, a part of
                           train is held out
  labels, test_labels      class numbers (n,), for arrays
  classes                  names, in the order of class numbers
  kind                     see `kinds`; required if the shape fits several kinds, and for tokens
  vocabulary               of tokens: the symbol of each, such as "abc" or ("red", "blue")
  holdout                  the fraction of train that is held out; 0.2 if not given
  conditions,              {name: array (n, …)}, for arrays: further inputs of the network.
  test_conditions          float32, int32, or bool for a mask with the name `name_mask`

Objects have labels and conditions in their items, and may have attributes `classes` and `kind`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.data import items, kinds, readers, splits
from experiments.run import conditions, memory
from langevin_jax import conditions as conditions_lib

KEYS = ("train", "test", "labels", "test_labels", "classes", "kind", "holdout", "conditions",
        "test_conditions", "vocabulary")
_INT32 = np.iinfo(np.int32)


class Columns(NamedTuple):
  """n examples with their labels and conditions; the first axis of each has length n."""

  x: Any
  labels: np.ndarray | None
  conditions: Mapping[str, Any]
  low: float  # the smallest value of x
  high: float  # the largest value of x


def source(returned: Any) -> splits.Source:
  """The source of a value that a user's function returned.

  Raises:
    ValueError: the value is neither a dict of arrays nor an object with items, or is not valid.
  """
  if isinstance(returned, splits.Source):
    return returned
  parts = dict(returned) if isinstance(returned, Mapping) else {"train": returned}
  if unknown := [key for key in parts if key not in KEYS]:
    raise ValueError(f"the dict has {unknown[0]!r}; it may have {', '.join(KEYS)}")
  if isinstance(returned, Mapping) and parts.get("train") is None:
    raise ValueError("the dict must have 'train', an array or an object with __len__ and "
                     "__getitem__")
  train = parts["train"] = _examples(parts["train"], "train")
  kind = parts.get("kind") or getattr(train, "kind", "")
  classes = _class_names(parts.get("classes"), train)
  if parts.get("test") is None:
    if orphans := [key for key in ("test_labels", "test_conditions") if key in parts]:
      raise ValueError(f"the dict has {orphans[0]!r} without 'test'")
    columns, num_train = _columns(parts, "train", "labels", "conditions"), 0
  else:
    columns, num_train = _with_test(parts), len(train)
  _check_masks(columns.conditions)
  kind = kinds.kind_of(columns.x.shape, columns.x.dtype, columns.low, kind)
  split = _split(columns, kind, num_train, parts.get("holdout", 0.2))
  if "classes" not in parts:
    classes = classes[:split.num_classes]  # the items may have no labels, or fewer classes
  if classes and len(classes) != split.num_classes:
    raise ValueError(f"'classes' must be {split.num_classes} names, one a class number; got "
                     f"{len(classes)}")
  vocabulary = tuple(map(str, parts.get("vocabulary", ())))
  if vocabulary and (kind != "tokens" or len(set(vocabulary)) < max(len(vocabulary), 2)):
    raise ValueError("'vocabulary' must be two or more different symbols, of data of the kind "
                     f"tokens; got {len(vocabulary)} of the kind {kind}")
  return split._replace(classes=classes, conditions=columns.conditions, vocabulary=vocabulary)


def _split(columns: Columns, kind: str, num_train: int, holdout: Any) -> splits.Source:
  """The source of columns: the examples from `num_train` on are held out.

  If num_train is 0, `splits.hold_out` chooses the fraction `holdout`.
  """
  x = columns.x
  if kind == "image" and len(x.shape) == 3:
    x = _with_channel(x)
  value_range = (columns.low, columns.high) if kind == "image" else None
  if not num_train:
    if isinstance(holdout, bool) or not isinstance(holdout, (int, float)):
      raise ValueError(f"'holdout' must be a fraction between 0 and 1; got {holdout!r}")
    return splits.hold_out(x, columns.labels, holdout, kind=kind, value_range=value_range)
  labels, num_classes = columns.labels, 0
  if labels is not None:
    splits.check_classes(labels[:num_train], labels)
    num_classes = int(labels.max()) + 1
  return splits.Source(x, labels, np.arange(len(x)) >= num_train, num_classes, kind, value_range)


def _examples(value: Any, key: str) -> Any:
  """`value` as an array, or unchanged if it is an object with items.

  Raises:
    ValueError: it is neither.
  """
  if isinstance(value, tuple):
    raise ValueError(f"'{key}' is a tuple of {len(value)}: return a dict such as {{'train': x, "
                     "'labels': y}")
  is_item_list = isinstance(value, list) and value and isinstance(value[0], (Mapping, tuple))
  if hasattr(value, "__array__") or (isinstance(value, list) and not is_item_list):
    return value if isinstance(value, np.ndarray) else conditions.as_array(repr(key), value)
  if hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(
      value, (str, bytes)):
    return value
  raise ValueError(f"must return a dict with 'train', an array, or an object with __len__ and "
                   f"__getitem__; got {type(value).__name__}")


def _with_test(parts: dict[str, Any]) -> Columns:
  """The columns of 'train' followed by those of 'test'. Raises ValueError if they do not match."""
  train, test = parts["train"], _examples(parts["test"], "test")
  arrays = [isinstance(value, np.ndarray) for value in (train, test)]
  if arrays[0] != arrays[1]:
    raise ValueError("'train' and 'test' must both be arrays, or both be objects with items")
  if not arrays[0]:
    return _columns(parts | {"train": items.Joined(train, test)}, "train", "labels", "conditions")
  first = _columns(parts, "train", "labels", "conditions")
  second = _columns(parts | {"test": test}, "test", "test_labels", "test_conditions")
  if first.x.shape[1:] != second.x.shape[1:]:
    raise ValueError(f"'train' and 'test' must have examples of one shape; got {first.x.shape[1:]} "
                     f"and {second.x.shape[1:]}")
  if (first.labels is None) != (second.labels is None):
    raise ValueError("'labels' and 'test_labels' must both be given, or neither")
  shapes = [{name: (value.shape[1:], value.dtype) for name, value in part.conditions.items()}
            for part in (first, second)]
  if shapes[0] != shapes[1]:
    raise ValueError("'conditions' and 'test_conditions' must have the same names, shapes and "
                     f"dtypes; got {_format_specs(shapes[0])} and {_format_specs(shapes[1])}")
  join = lambda a, b: np.concatenate([a, b])
  return Columns(
      join(first.x, second.x), None if first.labels is None else join(first.labels, second.labels),
      {name: join(value, second.conditions[name]) for name, value in first.conditions.items()},
      min(first.low, second.low), max(first.high, second.high))


def _columns(parts: dict[str, Any], key: str, labels_key: str, conditions_key: str) -> Columns:
  """The checked columns of `parts[key]`: an array with its labels and conditions, or an object.

  Raises:
    ValueError: values, labels or conditions are not valid.
  """
  x, labels = parts[key], parts.get(labels_key)
  named = {} if parts.get(conditions_key) is None else parts[conditions_key]
  if not isinstance(x, np.ndarray):
    if extra := [name for name in ("labels", "test_labels", "conditions", "test_conditions")
                 if name in parts]:
      raise ValueError(f"'{extra[0]}' goes with arrays; {key!r} is an object, which has labels and "
                       "conditions in its items")
    return _columns_of_items(items.Items(x, repr(key)))
  low, high = readers.check_array(x, repr(key))
  if labels is not None:
    labels = conditions.as_array(repr(labels_key), labels)
    readers.check_labels(labels, len(x), repr(labels_key))
  if not isinstance(named, Mapping):
    raise ValueError(f"'{conditions_key}' must be a dict {{name: array}}; got "
                     f"{type(named).__name__}")
  array = lambda name, value: conditions.as_array(f"condition {name!r}", value)
  checked = {name: _condition(array(name, value), name, len(x), named)
             for name, value in named.items()}
  return Columns(x, labels, checked, low, high)


def _columns_of_items(source: items.Items) -> Columns:
  """The columns of items: in memory if they fit, else read when indexed, except for the labels.

  All items are read once in either case, to check their values and to count classes.
  """
  names = [name for name in source.specs if name not in ("x", "label")]
  fits = source.bytes_in_memory() <= memory.free()
  blocks: dict[str, list[np.ndarray]] = {}
  low, high = np.inf, -np.inf
  for index in source.blocks():
    block = source.columns(index)
    block_low, block_high = readers.check_array(block["x"], f"items from {index[0]} on: 'x'")
    low, high = min(low, block_low), max(high, block_high)
    for name in names:
      _condition(block[name], name, len(index), block)
    for name in block if fits else ("label",):
      blocks.setdefault(name, []).append(block.get(name, np.zeros(0)))
  columns = {name: np.concatenate(parts) for name, parts in blocks.items()}
  labels = columns.get("label") if "label" in source.specs else None
  if labels is not None:
    readers.check_labels(labels, len(source), "'label' of the items")
  dtype_of = lambda name: _condition(np.zeros((1, *source.specs[name][0]), source.specs[name][1]),
                                     name, 1, source.specs).dtype
  named = {name: columns[name].astype(dtype_of(name)) if fits
           else items.Column(source, name, dtype_of(name)) for name in names}
  return Columns(columns["x"] if fits else source, labels, named, low, high)


def _condition(value: np.ndarray, name: Any, n: int, names: Any) -> np.ndarray:
  """A condition (n, …) as float32 or int32; as bool if it is the mask of another condition.

  Raises:
    ValueError: the name, length or dtype is not valid, or a value is out of range; names the array.
  """
  field = f"condition {name!r}"
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(f"{field} must have a name of letters, digits and underscores")
  if name == "label":
    raise ValueError("condition 'label' is the class number of an example: give it as 'labels'")
  if value.dtype.kind not in "biuf":
    raise ValueError(f"{field} must be an array of numbers; got dtype {value.dtype}")
  if value.shape[:1] != (n,):
    raise ValueError(f"{field} must have one entry an example, {n}; got shape {value.shape}")
  if value.dtype.kind == "b":
    return value if name.endswith("_mask") and name[:-5] in names else value.astype(np.int32)
  if value.dtype.kind in "iu":
    if value.size and not _INT32.min <= value.min() <= value.max() <= _INT32.max:
      raise ValueError(f"{field} must hold integers within 32 bits; got {value.min()} to "
                       f"{value.max()}")
    return value.astype(np.int32)
  if not np.isfinite(value).all() or np.abs(value).max(initial=0.0) > np.finfo(np.float32).max:
    raise ValueError(f"{field} must hold values that are finite and within float32")
  return value.astype(np.float32)


def _check_masks(named: Mapping[str, Any]) -> None:
  """Raises ValueError where a mask is not boolean, or its axes do not lead those of its array."""
  for name, mask in named.items():
    if not conditions_lib.is_mask(name, named):
      continue
    masked = name.removesuffix(conditions_lib.MASK)
    of = named[masked].shape
    if mask.dtype != bool or mask.shape != of[:len(mask.shape)]:
      raise ValueError(
          f"condition {name!r} must be booleans, such as mask.astype(bool), whose shape leads {of} "
          f"of {masked!r}; got {mask.dtype} of shape {mask.shape}")


def _class_names(classes: Any, train: Any) -> tuple[str, ...]:
  """The names of classes: `classes`, or those of the object: `classes` or `features["label"]`."""
  if classes is None:
    classes = getattr(train, "classes", None)
  if classes is None:
    info = getattr(train, "dataset_info", train)
    features = getattr(info, "features", None)
    label = features.get("label") if isinstance(features, Mapping) else None
    classes = getattr(label, "names", None)
  names = tuple(map(str, classes)) if classes is not None else ()
  if len(set(names)) < len(names):
    raise ValueError(f"'classes' must be different names; got {', '.join(names)}")
  return names


def _with_channel(x: Any) -> Any:
  """Images (n, h, w) with a channel axis, (n, h, w, 1)."""
  if isinstance(x, np.ndarray):
    return x[..., None]
  x.shape, x.ndim = (*x.shape, 1), 4
  return x


def _format_specs(shapes: Mapping[str, Any]) -> str:
  """Names with shapes and dtypes as text, for messages."""
  return ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in shapes.items()) or "none"
