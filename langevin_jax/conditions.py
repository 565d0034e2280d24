"""What a conditional model is given besides the state, and what stands for nothing given.

A condition is a pytree of arrays with the batch in front. Two forms have a null condition:

| condition | "not given" |
|---|---|
| labels, integers (batch,) | a label of its own, `num_classes` for the library's networks |
| a dict of named arrays | the mask of an array is False |

In a dict, an array `name` has a mask `name_mask` of booleans. Its axes lead those of the array:
(batch,) says for each example whether it has the condition, (batch, tokens) also says which tokens
of a sequence there are, (batch, height, width) which pixels of an image. A mask that is left out is
True. What is not given is zero in the array, so a network sees the same for every value under it.
Other booleans are integers, 0 and 1.

The array `augmentation` says how an example of training was changed, zero for not at all. It is
always given: a network that did not know would show such changes in its samples.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["AUGMENTATION", "MASK", "Kind", "complete", "drop", "example", "is_mask", "null"]

MASK = "_mask"  # what follows the name of an array in that of its mask
AUGMENTATION = "augmentation"  # how an example was changed; 0 for samples


class Kind(NamedTuple):
  """What is known of one named array without its values.

  Attributes:
    shape: of one example.
    classes: of integers, which are 0 … classes − 1. 0: real numbers.
  """

  shape: tuple[int, ...]
  classes: int = 0


def complete(condition: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """A dict of named arrays with all masks, and zeros where a mask is False.

  Args:
    condition: arrays `name`, (batch, …), and masks `name_mask` of some of them.

  Returns:
    As many masks as arrays, in the order of names. A complete condition is unchanged.

  Raises:
    ValueError: no array, arrays of several lengths, numbers that are neither real nor integers, a
      mask that is not boolean, leads no array's axes or belongs to no array.
  """
  found: dict[str, jax.Array] = {}
  names = [name for name in sorted(condition) if not is_mask(name, condition)]
  lengths = {name: np.shape(condition[name])[:1] for name in names}
  if not names or () in lengths.values() or len(set(lengths.values())) > 1:
    raise ValueError("a condition must have arrays with one batch axis in front, got shapes "
                     f"{ {name: np.shape(value) for name, value in condition.items()} }")
  for name in names:
    value = jnp.asarray(condition[name])
    if value.dtype == bool and not name.endswith(MASK):
      value = value.astype(jnp.int32)
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
      raise ValueError(f"condition {name!r} must have real numbers or integers, got {value.dtype}"
                       + (f"; there is no {name.removesuffix(MASK)!r} that it could mask"
                          if name.endswith(MASK) else ""))
    mask = jnp.asarray(condition.get(name + MASK, np.ones(value.shape[:1], bool)))
    if mask.dtype != bool or mask.ndim < 1 or mask.shape != value.shape[:mask.ndim]:
      raise ValueError(f"condition {name + MASK!r} must be booleans whose shape leads {value.shape}"
                       f" of {name!r}, got {mask.dtype} of shape {mask.shape}")
    found[name] = jnp.where(over(mask, value.ndim), value, jnp.zeros_like(value))
    found[name + MASK] = mask
  return found


def null(condition: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """The condition of the same shapes in which nothing is given."""
  whole = complete(condition)
  return complete({
      name: jnp.zeros_like(value) if is_mask(name, whole) and name != AUGMENTATION + MASK else value
      for name, value in whole.items()})


def drop(key: jax.Array, condition: Any, rate: float, *, null_label: int = 0) -> Any:
  """A condition of training with some of it not given (Ho & Salimans 2022).

  With probability `rate` an example loses all its conditions together. Where there are several,
  each of them is also lost by itself with that probability (Brooks et al. 2023, §3.2.1). So every
  part of the condition can be guided by itself.

  Args:
    key: consumed.
    condition: labels (batch,), or a dict of named arrays.
    rate: in [0, 1], a number or a traced scalar.
    null_label: the label that stands for none.
  """
  if not isinstance(condition, Mapping):
    dropped = jax.random.bernoulli(key, rate, condition.shape)
    return jnp.where(dropped, null_label, condition)
  whole = complete(condition)
  names = [name for name in whole if not is_mask(name, whole) and name != AUGMENTATION]
  batch = len(next(iter(whole.values())))
  together, *each = jax.random.bernoulli(key, rate, (1 + len(names), batch))
  for name, alone in zip(names, each, strict=True):
    mask = whole[name + MASK]
    lost = together | alone if len(names) > 1 else together
    whole[name + MASK] = mask & ~over(lost, mask.ndim)
  return complete(whole)


def example(kinds: Mapping[str, Kind], batch: int) -> dict[str, jax.Array]:
  """A complete condition of zeros, all given, from which a network learns its shapes."""
  return complete({name: jnp.zeros((batch, *kind.shape), jnp.int32 if kind.classes else jnp.float32)
                   for name, kind in kinds.items()})


def is_mask(name: str, condition: Mapping[str, Any]) -> bool:
  """Whether an array of a condition is the mask of another."""
  return name.endswith(MASK) and name.removesuffix(MASK) in condition


def over(mask: jax.Array, ndim: int) -> jax.Array:
  """A mask with axes of length 1 behind its own, `ndim` in all."""
  return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))
