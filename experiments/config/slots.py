"""The places of a config for choices, and which functions each may name.

Functions are found by what they return: every public function of `langevin_jax.samplers` that
returns a `Grid` is a grid. A new one needs no entry here.
"""

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from experiments.config import networks, optimizers
from experiments.config.calls import Slot
from experiments.data import dataset, sources
from langevin_jax import guidance, inpainting, objectives, paths, predictions, samplers
from langevin_jax.samplers import correctors, levels


def _returning(kind: Any, *modules: ModuleType, without: tuple[str, ...] = ()) -> Callable:
  """The public functions of modules that return `kind`, by name."""
  @functools.cache
  def functions() -> Mapping[str, Callable]:
    found = {}
    for module in modules:
      names = getattr(module, "__all__", None) or [k for k in vars(module) if not k.startswith("_")]
      for name in names:
        value = getattr(module, name)
        if callable(value) and name not in without and _hints(value).get("return") == kind:
          found[name] = value
    return found

  return functions


def _hints(function: Callable) -> Mapping[str, Any]:
  try:
    return typing.get_type_hints(function)
  except TypeError:  # a type alias is callable, and no function
    return {}


def _rows() -> Mapping[str, Callable]:
  """The rows of Table 5 as functions without arguments, and those that have some."""
  rows = {name: functools.wraps(row)(lambda row=row: row) for name, row in predictions.ROWS.items()}
  for name, function in rows.items():
    function.__doc__ = f"The network predicts {name}, a row of the paper's Table 5."
    function.__signature__ = inspect.Signature()
  return rows | {"edm": predictions.edm}


@functools.lru_cache
def noise_interval(
    stochasticity: float, rho_min: float = 0.0, rho_max: float = math.inf
) -> Callable[[Any], Any]:
  """η(ℓ): `stochasticity` for ρ in [rho_min, rho_max], 0 outside."""
  if not 0.0 <= rho_min < rho_max:
    raise ValueError(f"rho_min must lie in [0, rho_max), got {rho_min} and {rho_max}")
  low = -math.log(rho_max) if rho_max < math.inf else -math.inf
  high = -math.log(rho_min) if rho_min > 0.0 else math.inf
  return lambda ell: jnp.where((ell >= low) & (ell <= high), stochasticity, 0.0)


def _of_data(**hints: Any) -> Mapping[str, inspect.Parameter]:
  empty = {"shape": (), "num_classes": 0, "scaling": ""}
  return {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty[name],
                                  annotation=hint) for name, hint in hints.items()}


SLOTS: Mapping[str, Slot] = {
    "data": Slot(lambda: _returning(sources.Source, sources)() | {
        "array_record": dataset.array_record}, shared=_of_data(
        shape=tuple[int, ...], num_classes=int, scaling=str)),
    "path": Slot(_returning(paths.Path, paths, without=("check_path", "from_coefficients",
                                                        "from_sde"))),
    "network": Slot(lambda: networks.NETWORKS, provided=("shape", "num_classes", "constrain")),
    "prediction": Slot(functools.cache(_rows)),
    "density": Slot(_returning(objectives.Density, objectives, without=("by_error",)),
                    provided=("path",)),
    "weight": Slot(_returning(objectives.Weight, objectives), provided=("density",)),
    "optimizer": Slot(lambda: optimizers.OPTIMIZERS, provided=("learning_rate",)),
    "schedule": Slot(lambda: optimizers.SCHEDULES, provided=("learning_rate", "steps")),
    "sampler": Slot(lambda: _returning(levels.Method, samplers)() | {"adaptive": samplers.adaptive},
                    provided=("key", "denoise", "path", "shape", "initial", "moments")),
    "corrector": Slot(_returning(correctors.Corrector, correctors)),
    "budget": Slot(lambda: {"snr": correctors.snr}, provided=("event_axes",)),
    "stochasticity": Slot(lambda: {"noise_interval": noise_interval}),
    "grid": Slot(_returning(samplers.Grid, samplers),
                 provided=("key", "denoise", "path", "shape", "method", "progress")),
    "guidance": Slot(lambda: {"classifier_free": guidance.classifier_free},
                     provided=("network", "path", "labels", "null_label", "prediction"),
                     number="classifier_free", optional=True),
    "inpainter": Slot(_returning(inpainting.Inpainter, inpainting)),
}
