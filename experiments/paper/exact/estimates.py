"""Monte-Carlo estimates: means with standard errors."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def estimate(values: Any, axis: int = 0) -> tuple[Any, Any]:
  """(mean, standard error of the mean) of independent values along an axis."""
  values = np.asarray(values, np.float64)
  return values.mean(axis), values.std(axis, ddof=1) / np.sqrt(values.shape[axis])


def named(name: str, values: Any, axis: int = 0) -> dict[str, Any]:
  """`estimate` as entries of a part's data: {name: mean, name_error: standard error}."""
  mean, error = estimate(values, axis)
  return {name: mean, f"{name}_error": error}


def farthest(values: Mapping[str, float] | Iterable[float], centre: float) -> tuple[Any, float]:
  """(key or index, value) of the value farthest from `centre`."""
  items = values.items() if isinstance(values, Mapping) else enumerate(values)
  return max(((key, float(value)) for key, value in items),
             key=lambda item: abs(item[1] - centre))


def ratio(top: np.ndarray, bottom: np.ndarray) -> tuple[float, float]:
  """mean(top)/mean(bottom) of independent pairs (n,), and its standard error by linearisation.

  The mean of the quotients would depend on the few pairs with `bottom` near 0.
  """
  return float(top.mean() / bottom.mean()), float(estimate(influence(top, bottom))[1])


def influence(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
  """The first-order contribution of each pair to `ratio`, (n,), with mean 0."""
  return (top - top.mean() / bottom.mean() * bottom) / bottom.mean()
