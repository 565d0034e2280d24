"""A run from public weights: its config, the record of its data, its first checkpoint."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import config as config_lib
from experiments.config import calls
from experiments.data import codecs, facts
from experiments.data import dataset as datasets
from experiments.pretrained import layout, tables
from experiments.pretrained import weights as weights_lib
from experiments.pretrained.layout import Imported
from experiments.run import assembly, checkpoints, parameters, records

# Of pictures.
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


def read(place: pathlib.Path, layout_call: str) -> tuple[Imported, weights_lib.Weights]:
  """(what the weights are of, the weights) by a layout, or that which they look like.

  Raises:
    ValueError: weights that cannot be read, of no layout, of another than is said, or of another
      form than its.
  """
  weights = weights_lib.read(place)
  name = layout_call or layout.looks_like(weights)
  if not name or " or " in name:
    names = name or "no layout that is known here"
    raise ValueError(f"--weights={place} looks like {names}: say --layout=NAME; "
                     f"there are {', '.join(calls.slot_names('layout'))}")
  chosen = calls.make(name, "layout", "--layout")
  try:
    return calls.build(chosen, "layout", "--layout", weights=weights), weights
  except (AttributeError, LookupError, TypeError, ZeroDivisionError) as error:  # a user's files
    raise ValueError(f"--weights={place}: its tensors, or the values in its .json files, are not "
                     f"of the form of {chosen.name}: {error}") from error


def run(
    imported: Imported, data: config_lib.Call | None, codec: codecs.Codec | None = None
) -> tuple[config_lib.Config, assembly.Run]:
  """The config and the run of a network, before its weights.

  Labels of the data are left out if a diffusion model knows none.

  Args:
    data: that it was trained on, or will be; None for none.
    codec: the autoencoder of a network of latents without data, which decodes its samples.

  Raises:
    ValueError: data of another shape, other classes or other values than the network's, or an
      autoencoder of other latents.
  """
  if codec is not None and (data is not None or codec.latent_shape != imported.shape):
    raise ValueError(f"--autoencoder has latents of shape {codec.latent_shape}, the network takes "
                     f"{imported.shape}" if data is None else
                     "--autoencoder is of a network without --data; shards of latents hold theirs")
  given = data or config_lib.Call("absent", (
      ("shape", imported.shape), ("num_classes", imported.num_classes), ("kind", _kind(imported))))
  source = datasets.read_source(data, "--data") if data else None
  given_units = getattr(source, "units", None)  # those of rescaled(…)
  mean, scale = given_units or (
      _units(imported, source) if data else (imported.mean, imported.scale))
  autoencoder = not imported.prediction
  if not (autoencoder or imported.num_classes) and getattr(source, "num_classes", 0):
    given = config_lib.Call("unlabelled", (("data", given),))
  config = config_lib.Config(
      data=given if given_units or isinstance(source, datasets.Dataset) else config_lib.Call(
          "rescaled", (("data", given), ("mean", mean), ("scale", scale))),
      network=imported.network,
      objective=config_lib.Objective(**(
          {"prediction": f"{imported.prediction}()"} if imported.prediction else
          {"autoencoder": "reconstruction()"})),
      training=config_lib.Training(label_dropout=0.1 if imported.null_label else 0.0))
  if data:
    dataset = datasets.load(config.data)
    shape = dataset.train.shape[1:]
    if shape != imported.shape:
      raise ValueError(f"--data: examples have the shape {shape}, the network takes "
                       f"{imported.shape}")
    units = np.stack(np.broadcast_arrays(dataset.mean, dataset.scale), axis=-1)
    if not np.allclose(units, [mean, scale], rtol=1e-6):
      raise ValueError("--data: shards have the units that were chosen when they were written; "
                       f"write them from rescaled(…, mean={mean:g}, scale={scale:g})")
    if dataset.num_classes != imported.num_classes and not autoencoder:
      raise ValueError(f"--data has {dataset.num_classes} classes, the weights know "
                       f"{imported.num_classes}")
  else:
    dataset = _absent(imported)
    if codec is not None:
      dataset = dataset._replace(codec=codec, kind=codec.kind, value_range=codec.value_range,
                                 integers=codec.integers)
  return config, assembly.prepare(config, dataset)


def fill(
    run: assembly.Run, imported: Imported, weights: weights_lib.Weights
) -> parameters.Source:
  """The parameters of the run. Raises ValueError as `tables.fill`."""
  tensors = {_today(name, imported.older): value for name, value in weights.tensors.items()}
  weights = weights._replace(tensors=tensors)
  target = checkpoints.by_path(assembly.abstract_state(run).params)
  arrays = tables.fill({path: tuple(leaf.shape) for path, leaf in target.items()}, weights,
                       imported.table, numbers=imported.numbers, ignored=imported.ignored)
  return parameters.Source(arrays, {"source": str(weights.place)})


def write(
    workdir: pathlib.Path, config: config_lib.Config, run: assembly.Run, source: parameters.Source
) -> dict[str, Any]:
  """Writes the new workdir of the run, with the weights as step 0; returns their origin."""
  state, origin = parameters.start_from(run, source)
  records.claim(workdir, config)
  with records.locked(workdir):
    facts.claim(workdir, run.dataset)
    records.manifest(workdir, config, from_step=0, finished=False, began_from=origin, steps=0)
    with checkpoints.manager(workdir, keep=config.training.keep_checkpoints) as manager:
      checkpoints.save(manager, 0, state, assembly.average_names(config.training))
      checkpoints.finish(manager)
  return origin


def _today(name: str, older: Mapping[str, str]) -> str:
  for before, after in older.items():
    name = name.replace(before, after)
  return name


def _units(imported: Imported, source: Any) -> tuple[float, float]:
  """(mean, scale) of data that may be pictures in [0, 1] or [−1, 1], too.

  Values that fill less than half of a range are taken to be of another one, which is not known.
  """
  value_range = getattr(source, "value_range", None)
  if _kind(imported) != "image" or value_range is None:
    return imported.mean, imported.scale
  for low, high in _RANGES:
    half = (high - low) / 2.0
    if low <= value_range[0] and value_range[1] <= high and (
        value_range[1] - value_range[0] >= half):
      return (low + high) / 2.0, imported.scale * half / layout.HALF_RANGE
  ranges = " or ".join(f"[{low:g}, {high:g}]" for low, high in _RANGES)
  raise ValueError(f"--data has values {value_range[0]:g} … {value_range[1]:g}; pictures fill "
                   f"{ranges}: give the units of others by rescaled(…, mean=…, scale=…)")


def _kind(imported: Imported) -> str:
  return "image" if imported.shape[-1] in (1, 3) else "array"


def _absent(imported: Imported) -> datasets.Dataset:
  """The record of data that are not here."""
  image, shape = _kind(imported) == "image", imported.shape
  none, labels = np.zeros((0, *shape), np.float32), np.zeros(0, np.int32)
  moments = np.zeros(shape, np.float32), np.full(shape, imported.deviation**2, np.float32)
  return datasets.Dataset(
      none, labels, none, labels, imported.num_classes, np.asarray(imported.mean),
      np.asarray(imported.scale), _kind(imported), (0.0, 255.0) if image else None, image,
      tuple(map(str, range(imported.num_classes))), digests={}, moments=moments)


def count(source: parameters.Source) -> int:
  """The number of parameters."""
  return sum(math.prod(array.shape) for array in source.arrays.values())
