"""The places of a config for choices, and which functions each may name.

Functions are found by what they return: every public function of `langevin_jax.samplers` that
returns a `Grid` is a grid. A new one needs no entry here.
"""

import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import optax

from experiments.config import autoencoders, levels, networks, optimizers
from experiments.config.calls import Slot
from experiments.data import dataset, sources, tables, text
from experiments.metrics import classifier, distances
from experiments.pretrained import (
  adm,
  diffusers,
  dinov2,
  edm,
  inception,
  layout,
  transformers,
  vgg,
)
from experiments.pretrained import autoencoders as kl_layouts
from experiments.run import loggers
from langevin_jax import (
  discrete,
  flow_maps,
  guidance,
  inpainting,
  objectives,
  paths,
  predictions,
  samplers,
  training,
)
from langevin_jax import networks as networks_lib
from langevin_jax.samplers import correctors
from langevin_jax.samplers import levels as sampler_levels


def _returning(kind: Any, *modules: ModuleType, without: tuple[str, ...] = ()) -> Callable:
  """The public functions of modules that return `kind`, by name."""
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


_paths = _returning(
    paths.Path, paths, without=("check_path", "from_coefficients", "from_sde"))
_SLOTS = {
    "data": Slot(lambda: _returning(sources.Source, sources, tables)() | {
        "text": text.text, "array_record": dataset.array_record}, shared=_of_data(
        shape=tuple[int, ...], num_classes=int, scaling=str), outlived=True),
    "path": Slot(lambda: _paths() | _returning(
        discrete.paths.Path, discrete.paths, without=("check_path",))(), provided=("vocabulary",),
                 result=(paths.Path, discrete.paths.Path)),
    "clock": Slot(_returning(paths.Path, discrete.paths, without=("from_survival", "from_rate")),
                  result=paths.Path),
    "network": Slot(lambda: networks.NETWORKS | autoencoders.NETWORKS, provided=(
        "shape", "num_classes", "conditions", "constrain", "second_level", "key", "rngs")),
    "level": Slot(_returning(networks_lib.Level, levels), optional=True,
                  result=networks_lib.Level),
    "prediction": Slot(_rows, result=Callable),
    "density": Slot(lambda: _returning(objectives.Density, objectives, without=("by_error",))() | {
        "learned": objectives.learned}, provided=("path",),
                    result=(objectives.Density, objectives.LearnedDensity)),
    "weight": Slot(lambda: _returning(objectives.Weight, objectives)() | {
        "uncertainty": objectives.uncertainty}, provided=("density",),
                   result=(Callable, objectives.LearnedWeight)),
    "flow_map": Slot(_returning(flow_maps.Identity, flow_maps), optional=True,
                     result=flow_maps.Identity),
    "autoencoder": Slot(lambda: {"reconstruction": autoencoders.reconstruction},
                        provided=("encode", "decode"), optional=True, result=training.Loss),
    "pairs": Slot(_returning(flow_maps.Pairs, flow_maps), result=flow_maps.Pairs),
    "optimizer": Slot(lambda: optimizers.OPTIMIZERS, provided=("learning_rate",),
                      result=optax.GradientTransformation),
    "schedule": Slot(lambda: optimizers.SCHEDULES, provided=("learning_rate", "steps"),
                     result=Callable),
    "sampler": Slot(lambda: _returning(sampler_levels.Method, samplers)() | {
        "adaptive": samplers.adaptive, "adaptive_sde": samplers.adaptive_sde} | _returning(
            discrete.samplers.Method, discrete.samplers)(),
                    provided=("key", "denoise", "path", "shape", "initial", "moments"),
                    result=(sampler_levels.Method, discrete.samplers.Method)),
    "corrector": Slot(_returning(correctors.Corrector, correctors), result=correctors.Corrector),
    "budget": Slot(lambda: {"snr": correctors.snr}, provided=("event_axes",)),
    "stochasticity": Slot(lambda: {"noise_interval": noise_interval},
                          result=(float, int, Callable)),
    "grid": Slot(_returning(samplers.Grid, samplers),
                 provided=("key", "denoise", "path", "shape", "method", "progress"),
                 result=Callable),
    "guidance": Slot(lambda: {"classifier_free": guidance.classifier_free},
                     provided=("network", "path", "condition", "null", "prediction"),
                     number="classifier_free", optional=True, result=Callable),
    "inpainter": Slot(_returning(inpainting.Inpainter, inpainting), result=Callable),
    "extractor": Slot(lambda: {"classifier": classifier.extractor, "pixels": classifier.pixels,
                               "vgg16": vgg.vgg16, "inception": inception.inception,
                               "dinov2": dinov2.dinov2},
                      provided=("model", "dataset"), result=Callable),
    "metric": Slot(_returning(float, distances), provided=("x", "y", "seed"), result=numbers.Real),
    "layout": Slot(_returning(layout.Imported, adm, kl_layouts, diffusers, edm, transformers),
                   provided=("weights",), result=layout.Imported),
    "logger": Slot(_returning(loggers.Logger, loggers), provided=("workdir", "step"),
                   optional=True, result=loggers.Logger),
}
# Each asks for the type hints of all functions of its modules, once.
SLOTS: Mapping[str, Slot] = {
    name: slot._replace(functions=functools.cache(slot.functions)) for name, slot in _SLOTS.items()}
