"""A trained model as an object: `experiments.load(workdir)`, without its data and its config."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import build
from experiments.data import facts
from experiments.run import assembly, averages, records
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import paths, predictions


@dataclasses.dataclass(frozen=True)
class Model:
  """What a run has learned, in the units of its data.

  dataset: the facts of the data (kind, classes, units), without examples. params: the average of
  the parameters that was asked for. step: of the checkpoint.
  """

  run: assembly.Run
  params: Any
  step: int

  @property
  def shape(self) -> tuple[int, ...]:
    """Of one example."""
    return self.run.dataset.train.shape[1:]

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, in the order of labels; empty where the model has none."""
    return self.run.dataset.classes

  def denoise(
      self, x: jax.Array, *, alpha: jax.Array | float, sigma: jax.Array | float,
      condition: jax.Array | None = None,
  ) -> jax.Array:
    """E[x₀ | x = α x₀ + σ ε], ε ~ N(0, I), x and x₀ in the data's own units.

    Args:
      x: (n, *shape). alpha, sigma: scalars, α > 0 and σ > 0; α = 0, too, of a network that predicts
        what the data are made of there (x₀, velocity, v, EDM's F).
      condition: (n,) class numbers; None for the model without labels.

    Raises:
      ValueError: an x of another shape, other α and σ, or a model whose features have scales of
        their own, for which ε would not have one σ.
    """
    dataset, x = self.run.dataset, jnp.asarray(x)
    alpha, sigma = (np.asarray(value, np.float32) for value in (alpha, sigma))
    row = build.prediction(self.run.config.objective)
    alone = float(row(predictions.unit_frame(-math.inf))[0]) == 0.0
    least = alpha > 0.0 or (alpha == 0.0 and not alone)
    if alpha.ndim or sigma.ndim or not sigma > 0.0 or not least:
      raise ValueError(f"denoise needs scalars σ > 0 and α {'>' if alone else '≥'} 0, got "
                       f"alpha={alpha} and sigma={sigma}")
    if x.shape[1:] != self.shape:
      shape = ", ".join(map(str, ("n", *self.shape)))
      raise ValueError(f"x must have the shape ({shape}), got {x.shape}")
    if np.ndim(dataset.scale) > 0:
      raise ValueError("denoise needs one scale for all features; this model was trained with "
                       "data.scaling=features or whiten")
    mean, scale = (jnp.asarray(value, jnp.float32) for value in (dataset.mean, dataset.scale))
    # x = α (mean + A z₀) + σ ε, so (x − α mean)/A = α z₀ + (σ/A) ε.
    z = (x - alpha * mean) / scale
    sigma = sigma / scale
    model = drawing.denoiser(
        self.run, self.params, paths.vp(), self._labels(condition, len(x)))
    found = model.at(z / jnp.hypot(alpha, sigma), jnp.log(alpha) - jnp.log(sigma))
    return mean + scale * found

  def sample(
      self, key: jax.Array, n: int, *, condition: jax.Array | None = None, sampler: str = "",
      grid: str = "", path: str = "", guidance: float | str | None = None,
  ) -> np.ndarray:
    """n samples (n, *shape) in the data's units.

    Args:
      condition: (n,) class numbers, one number or name, or None for the model without labels.
      sampler, grid, path, guidance: calls, as on the command line; the run's own if not given.
    """
    config = self.run.config
    given = {"sampling.sampler": sampler, "sampling.grid": grid, "path": path,
             "sampling.guidance": guidance}
    config = config_lib.override(config, {k: v for k, v in given.items() if v not in ("", None)})
    build.at_least("n", n, 1)
    samplers_from_config.check(config.sampling, build.path(config.path), config.objective)
    samplers_from_config.check_whole(config.sampling)
    if config.sampling.grid.name == "optimised":
      raise ValueError("grid: optimised is for the command line, which keeps what it found; pass "
                       "another grid")
    assembly.check_labels(self.run, config.sampling, unlabelled=condition is None)
    labels = self._labels(condition, n)
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    return drawing.draw(self.run, self.params, config.sampling, build.path(config.path), labels,
                        seed=seed)

  def _labels(self, condition: Any, n: int) -> np.ndarray:
    """Class numbers (n,); those of no class are one more than the last."""
    classes = self.run.dataset.num_classes
    if isinstance(condition, str) and condition in self.classes:
      condition = self.classes.index(condition)
    labels = np.asarray(classes if condition is None else condition)
    if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)) or not (
        0 <= labels.min() <= labels.max() <= classes):
      raise ValueError(f"condition must be a class by number (0 … {classes - 1}) or name, or {n} "
                       "numbers, got "
                       f"{condition!r:.100}")
    return np.broadcast_to(labels, (n,)).astype(np.int32)


def load(workdir: str | pathlib.Path, *, ema: str = "", step: int | None = None) -> Model:
  """The model of a run, from its workdir alone.

  Args:
    ema: which average of the parameters, as `--ema`; the run's first half-life if not given.
    step: of the checkpoint; the newest if not given.

  Raises:
    ValueError: no run there, no such checkpoint or average.
  """
  workdir = pathlib.Path(workdir)
  config = dataclasses.replace(records.read_config(workdir), mesh=config_lib.Mesh())
  run = assembly.alone(assembly.prepare(config, facts.read(workdir)))
  state = assembly.restored(run, workdir, step=step)
  params, _ = averages.of(run, state, workdir, averages.named(ema, config.training, workdir))
  return Model(run, params, int(state.step))
