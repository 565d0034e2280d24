"""Digits given something: themselves at half the resolution, or their number and amount of ink.

The data and the network of `conditions`, through the doors that a user's own take: functions that
return dicts of arrays, and a Linen module. Every fifth digit is held out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from langevin_jax.networks import MLP

INK = ("light", "medium", "heavy")  # thirds of the training digits by the sum of their pixels


class Digits(NamedTuple):
  """scikit-learn's digits: images (n, 8, 8, 1) with values 0 … 16, numbers and ink (n,)."""

  x: np.ndarray
  number: np.ndarray
  ink: np.ndarray


class Pixels(nn.Module):
  """The library's perceptron on all pixels: it is trained in seconds."""

  conditions: Any
  width: int = 192
  depth: int = 3

  @nn.compact
  def __call__(self, x: jax.Array, half_log_snr: jax.Array, condition: Any) -> jax.Array:
    flat = {name: value.reshape(len(x), -1) if value.ndim > 2 else value
            for name, value in condition.items()}
    classes = {name: kind.classes for name, kind in self.conditions.items() if kind.classes}
    network = MLP(width=self.width, depth=self.depth, classes=classes)
    return network(x.reshape(len(x), -1), half_log_snr, flat).reshape(x.shape)


def digits() -> tuple[Digits, Digits]:
  """Training and held-out digits."""
  import sklearn.datasets  # a second of import
  x, y = sklearn.datasets.load_digits(return_X_y=True)
  x, held_out = x.reshape(-1, 8, 8, 1), np.arange(len(x)) % 5 == 0
  edges = np.quantile(x[~held_out].sum((1, 2, 3)), (1 / 3, 2 / 3))
  whole = Digits(x, y, ink(x, edges))
  return tuple(Digits(*(values[part] for values in whole)) for part in (~held_out, held_out))


def ink(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Which of `INK` images (n, h, w, c) are of, (n,)."""
  return np.searchsorted(edges, x.sum((1, 2, 3)), side="right")


def pooled(x: np.ndarray) -> np.ndarray:
  """Means of 2 × 2 pixels, (n, h, w, c) → (n, h/2, w/2, c)."""
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def low_resolution() -> dict[str, Any]:
  """Digits given the means of their 2 × 2 pixels, scaled to −1 … 1."""
  return _data(lambda part: {"low": pooled(part.x) / 8.0 - 1.0})


def number_and_ink() -> dict[str, Any]:
  """Digits given two integers, the number 0 … 9 and which third of all by ink, 0 … 2."""
  return _data(lambda part: {"number": part.number, "ink": part.ink})


def _data(conditions: Callable[[Digits], dict[str, np.ndarray]]) -> dict[str, Any]:
  train, test = digits()
  return {"train": train.x, "test": test.x, "kind": "image", "conditions": conditions(train),
          "test_conditions": conditions(test)}
