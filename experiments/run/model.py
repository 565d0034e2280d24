"""A trained model as an object: `experiments.load(workdir)`, without its data and its config."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import build, calls
from experiments.data import codecs, facts, text
from experiments.run import assembly, averages, conditions, files, records
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import discrete, paths, predictions


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
  """What a run has learned, in the units of its data.

  dataset: the facts of the data (kind, classes, units), without examples. params: the average of
  the parameters that was asked for. step: of the checkpoint.
  """

  run: assembly.Run
  params: Any
  step: int

  def __repr__(self) -> str:
    classes = f", {len(self.classes)} classes" if self.classes else ""
    return (f"Model({calls.short(self.run.config.network, 'network')}, step {self.step}, examples "
            f"of shape {self.shape}{classes})")

  @property
  def shape(self) -> tuple[int, ...]:
    """Of one example."""
    return self.run.dataset.train.shape[1:]

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, in the order of labels; empty where the model has none."""
    return self.run.dataset.classes

  @property
  def scale(self) -> np.ndarray:
    """A of the data's units x = mean + A z: (), by feature (c,), or of whitening (c, c)."""
    return self.run.dataset.scale

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """The symbols of tokens, in their order; empty where the data are numbers."""
    return self.run.dataset.vocabulary

  def text(self, x: Any) -> list[str]:
    """Tokens (n, length) as text; a mask token is shown as ░."""
    return [text.decode(tokens, self.vocabulary) for tokens in np.asarray(x)]

  def codec(self) -> codecs.Codec:
    """The autoencoder that a run has trained. Raises ValueError if it is of another kind."""
    config, dataset = self.run.config, self.run.dataset
    if config.objective.autoencoder is None:
      raise ValueError("--workdir: this run is no autoencoder; one is trained with "
                       "config.objective.autoencoder, such as reconstruction()")
    return codecs.Codec(
        calls.to_plain(config.network), self.shape, np.asarray(dataset.mean),
        np.asarray(dataset.scale), dataset.kind, dataset.value_range, dataset.integers, self.params)

  def denoise(
      self, x: jax.Array, *, alpha: jax.Array | float, sigma: Any = None,
      condition: jax.Array | None = None,
  ) -> jax.Array:
    """E[x₀ | x = α x₀ + σ ε], ε ~ N(0, I), x and x₀ in the data's own units.

    Of tokens x (n, length) it is the law D(a) = P(x₀ᵢ = a | x) at survival probability α, (n,
    length, V), and there is no σ.

    Where features have scales of their own, the network knows noise in proportion to them:
    σ = τ A with A = `scale`, so that x = α x₀ + τ A ε. Pass sigma=tau * model.scale, which is right
    for every model.

    Args:
      x: (n, *shape). alpha: a scalar > 0; 0, too, of a network that predicts what the data are made
        of there (x₀, velocity, v, EDM's F). sigma: a scalar > 0, or τ · `scale`, τ > 0.
      condition: (n,) class numbers, or a dict of named arrays (n, …); None: nothing is given.

    Raises:
      ValueError: an x of another shape, other α and σ, a σ that is not in proportion to `scale`, or
        no condition for a model that was never trained without one.
    """
    if self.vocabulary:
      return self._law(x, alpha, sigma, condition)
    dataset, x = self.run.dataset, jnp.asarray(x)
    alpha = np.asarray(alpha, np.float32)
    row = build.prediction(self.run.config.objective)
    noise_alone = float(row(predictions.unit_frame(-math.inf))[0]) == 0.0
    if alpha.ndim or not (alpha > 0.0 or (alpha == 0.0 and not noise_alone)):
      raise ValueError(f"denoise needs a scalar α {'>' if noise_alone else '≥'} 0, got "
                       f"alpha={alpha}")
    if x.shape[1:] != self.shape:
      shape = ", ".join(map(str, ("n", *self.shape)))
      raise ValueError(f"x must have the shape ({shape}), got {x.shape}")
    assembly.check_labels(self.run, config_lib.Sampling(), unlabelled=condition is None)
    tau = self._noise_level(sigma)
    mean = jnp.broadcast_to(np.float32(dataset.mean), x.shape)
    scale, whitened = np.float32(dataset.scale), np.ndim(dataset.scale) == 2
    scale = scale if whitened else jnp.broadcast_to(scale, x.shape)
    # x = α (mean + A z₀) + τ A ε, so A⁻¹(x − α mean) = α z₀ + τ ε.
    z = x - alpha * mean
    z = z @ np.linalg.inv(scale).T if whitened else z / scale
    model = drawing.denoiser(
        self.run, self.params, paths.vp(), self._labels(condition, len(x)))
    z_0 = model.at(z / jnp.hypot(alpha, tau), jnp.log(alpha) - jnp.log(tau))
    return mean + (z_0 @ scale.T if whitened else scale * z_0)

  def _law(self, x: Any, alpha: Any, sigma: Any, condition: Any) -> jax.Array:
    """D of tokens, as `denoise` has it."""
    path_ = self.run.path
    x = discrete.paths.check_tokens(x, path_, masked=True)
    if sigma is not None or np.ndim(alpha) or not 0.0 <= alpha <= 1.0:
      raise ValueError("denoise needs a scalar survival probability 0 ≤ α ≤ 1 of tokens, and no σ; "
                       f"got alpha={alpha}, sigma={sigma}")
    if x.shape[1:] != self.shape:
      raise ValueError(f"x must have the shape (n, {self.shape[0]}), got {x.shape}")
    assembly.check_labels(self.run, config_lib.Sampling(), unlabelled=condition is None)
    model = drawing.denoiser(self.run, self.params, path_, self._labels(condition, len(x)))
    alpha, sigma = jnp.float32(alpha), jnp.float32(1.0 - alpha)
    logits = model(x, path_.clock.time(jnp.log(alpha) - jnp.log(sigma)))
    return jnp.exp(discrete.splitting.clean_law(x, logits, alpha, sigma, path_))

  def _noise_level(self, sigma: Any) -> np.ndarray:
    """τ of σ = τ A, the noise in standard units, float32."""
    scale, sigma = (np.asarray(value, np.float32) for value in (self.scale, sigma))
    if sigma.shape != scale.shape:
      wanted = "a scalar σ" if scale.ndim == 0 else (
          f"sigma=tau * model.scale, of shape {scale.shape}: the features of this model have "
          "scales of their own, and its noise is in proportion to them")
      raise ValueError(f"denoise needs {wanted}; got sigma of shape {sigma.shape}")
    # Of a matrix the largest element, where rounding matters least.
    largest = np.argmax(np.abs(scale))
    tau = sigma.ravel()[largest] / scale.ravel()[largest]
    if not 0.0 < tau < np.inf or not np.allclose(
        sigma, tau * scale, rtol=1e-3, atol=1e-6 * tau * np.abs(scale).max()):
      raise ValueError(f"denoise needs σ > 0{' in proportion to model.scale' * (scale.ndim > 0)}, "
                       f"got sigma={sigma}")
    return tau

  def sample(
      self, key: jax.Array, n: int, *, condition: jax.Array | None = None, sampler: str = "",
      grid: str = "", path: str = "", guidance: float | str | None = None,
  ) -> np.ndarray:
    """n samples (n, *shape) in the data's units; tokens as integers, which `text` decodes.

    Args:
      condition: (n,) class numbers, one number or name, or a dict of named arrays, (n, …) or
        those of one example for all; None: nothing is given.
      sampler, grid, path, guidance: calls, as on the command line; the run's own if not given.
    """
    config = self.run.config
    given = {"sampling.sampler": sampler, "sampling.grid": grid, "path": path,
             "sampling.guidance": guidance}
    config = config_lib.override(config, {k: v for k, v in given.items() if v not in ("", None)})
    build.at_least("n", n, 1)
    build.check_noise(self.run.config.path, config.path)
    path_ = build.path(config.path, len(self.vocabulary))
    samplers_from_config.check(config.sampling, path_, config.objective)
    samplers_from_config.check_whole(config.sampling)
    if config.sampling.grid.name == "optimised":
      raise ValueError("grid: optimised is for the command line, which keeps what it found; pass "
                       "another grid")
    assembly.check_labels(self.run, config.sampling, unlabelled=condition is None)
    labels = self._labels(condition, n)
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    return drawing.draw(self.run, self.params, config.sampling, path_, labels, seed=seed)

  def _labels(self, condition: Any, n: int) -> Any:
    """Class numbers (n,), those of no class one more than the last; or n of each named array."""
    classes, named = self.run.dataset.num_classes, bool(self.run.dataset.conditions)
    dropout = self.run.config.training.label_dropout
    if named and (condition is None or isinstance(condition, Mapping)):
      given = dict(condition or {})
      if given.get("label") is not None:
        given["label"] = self._number(given["label"])
      return conditions.given(self.run.dataset, given, n, dropout=dropout)
    if named and not classes:
      raise ValueError("condition must be a dict of named arrays: "
                       f"{', '.join(conditions.kinds(self.run.dataset))}")
    if condition is not None and not classes:
      raise ValueError("condition must be left out: the data have no labels, got "
                       f"{condition!r:.100}")
    labels = np.asarray(classes if condition is None else self._number(condition))
    most = classes - 1 if named else classes
    if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)) or not (
        0 <= labels.min() <= labels.max() <= most):
      raise ValueError(f"condition must be a class by number (0 … {classes - 1}) or name, or {n} "
                       f"numbers, got {condition!r:.100}")
    if named:
      return conditions.given(self.run.dataset, {"label": labels}, n, dropout=dropout)
    return np.broadcast_to(labels, (n,)).astype(np.int32)

  def _number(self, label: Any) -> Any:
    """The number of a class that is given by its name; anything else as it is."""
    return self.classes.index(label) if isinstance(label, str) and label in self.classes else label


def load(workdir: str | pathlib.Path, *, ema: str = "", step: int | None = None) -> Model:
  """The model of a run, from its workdir alone.

  Args:
    ema: which average of the parameters, as `--ema`; the run's first half-life if not given.
    step: of the checkpoint; the newest if not given.

  Raises:
    ValueError: no run there, no such checkpoint or average.
  """
  workdir = files.path("workdir", str(workdir))
  config = dataclasses.replace(records.read_config(workdir), mesh=config_lib.Mesh())
  run = assembly.alone(assembly.prepare(config, facts.read(workdir)))
  state = assembly.restored(run, workdir, step=step)
  params, _ = averages.of(run, state, workdir, averages.named(ema, config.training, workdir))
  return Model(run, params, int(state.step))
