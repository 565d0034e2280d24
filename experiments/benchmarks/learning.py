"""Whether training improves on the best linear denoiser: configs × distributions of data.

  python -m experiments.benchmarks.learning --out=runs/bench/learning.json
  python -m experiments.benchmarks.learning --configs=arrays --laws=ring_8,checkerboard --seeds=2

A network that starts at zero soon reaches the loss of the best linear denoiser, which depends on
the covariance of the data alone. Of whitened data a linear denoiser learns nothing. After a number
of steps of the config's training the loss must be below that of the best linear denoiser, for the
same data, levels and noise. For Gaussian data the linear denoiser is optimal, and the two losses
must agree within 2 %. The loss is the smaller one of the parameters and of their average, which
samplers use: one example far out in the tails moves the parameters for some steps.

Configs for images get 8×8 images of 2×2 patches of one colour each. The coordinates of independent
draws of the law are the colours. Their networks and batches are small, with a learning rate that
goes with them and falls to 0 by the last step (`SMALL`): in 500 steps of their own, those of large
networks have hardly begun. Only the prediction of the colours is judged: in the other directions,
where images do not vary, the linear denoiser is exact, and its prediction takes the place of the
network's.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments.benchmarks import measure
from experiments.config import build, cli
from experiments.data import standardize, toy_data
from langevin_jax import objectives, predictions, training

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
GAUSSIAN_MARGIN = 0.02
_JUDGED = 2**14
# Eigenvalues of the covariance below this are rounding; the largest is about 1.
_VARIES = 1e-5
_SIDE, _PATCH = 8, 2
# What is small here: a transformer, whose patches are of 2 × 2 pixels, and a U-Net.
SMALL = {"network.width": "64", "network.depth": "2", "network.heads": "2", "network.unroll": "1",
         "training.batch_size": "64", "training.learning_rate": "3e-3",
         "training.schedule": "cosine(warmup_steps=50)"}
_SMALL_UNET = {
    "objective.weight": "edm()",  # without what is learned beside the network
    "network.channels": "16", "network.multipliers": "(1, 2)", "network.blocks": "1",
    "network.attention": "(4,)", "network.head_channels": "16", "training.batch_size": "64",
    "training.learning_rate": "0.1", "training.schedule": "cosine(warmup_steps=50)",
    "training.ema_half_life_steps": "(50,)"}
# Image configs: the channels of their images, and what changes.
IMAGES: dict[str, tuple[int, dict[str, str]]] = {
    "digits": (1, SMALL), "annealed_langevin": (1, SMALL), "images": (3, SMALL),
    "fashion_mnist": (1, SMALL), "cifar10": (3, SMALL), "latent_dit_xl2": (4, SMALL),
    "imagenet64_dit_xl2": (3, SMALL), "imagenet256_sit_xl2": (4, SMALL),
    "imagenet256_jit_b16": (3, SMALL | {"network.patch_size": "2", "network.bottleneck": "8"}),
    "imagenet64_edm2_s": (3, _SMALL_UNET)}

Law = Callable[[np.random.Generator, int], np.ndarray]


def ring(modes: int, std: float) -> Law:
  """Points of a circle of radius 1, evenly spaced, plus N(0, std² I)."""
  def draw(rng, n):
    angle = 2.0 * np.pi * rng.integers(modes, size=n) / modes
    return np.stack([np.cos(angle), np.sin(angle)], 1) + std * rng.standard_normal((n, 2))

  return draw


def whitened(law: Law) -> Law:
  """The law in coordinates of mean 0 and covariance I."""
  def draw(rng, n):
    x = law(rng, n)
    return (x - x.mean(0)) @ np.linalg.cholesky(np.linalg.inv(np.cov(x, rowvar=False)))

  return draw


def correlated(first: Callable[[np.random.Generator, int], np.ndarray]) -> Law:
  """`first` and a Gaussian, mixed linearly."""
  def draw(rng, n):
    return np.stack([first(rng, n), rng.standard_normal(n)], 1) @ np.array([[1.0, 0.9], [0.0, 0.4]])

  return draw


def signs(rng: np.random.Generator, n: int) -> np.ndarray:
  """±1 plus N(0, 0.1²), (n,)."""
  return rng.choice([-1.0, 1.0], n) + 0.1 * rng.standard_normal(n)


LAWS: dict[str, Law] = {
    "signs": lambda rng, n: signs(rng, n)[:, None],
    "ring_2": ring(2, 0.1), "ring_8": ring(8, 0.1), "ring_25": ring(25, 0.03),
    "checkerboard": lambda rng, n: toy_data.checkerboard(rng, n)[0],
    "whitened_signs": whitened(correlated(signs)),
    "whitened_gaussian": whitened(correlated(lambda rng, n: rng.standard_normal(n))),
    "one_point": lambda rng, n: 1e-3 * rng.standard_normal((n, 2)) + 3.0,
    "student_3": lambda rng, n: rng.standard_t(3.0, (n, 2)),
}
# As of `whitened_gaussian` and of a point that is blurred by a Gaussian.
GAUSSIAN = ("whitened_gaussian", "one_point")


def main() -> int:
  chosen = flags.FLAGS
  laws = chosen.laws or list(LAWS)
  out = cli.out(chosen.out, measure.is_report, suffix=".json")
  for name in ("seeds", "steps"):
    build.at_least(name, getattr(chosen, name), 1)
  if unknown := set(laws) - set(LAWS):
    raise ValueError(f"--laws must be some of {', '.join(LAWS)}, got {unknown.pop()!r}")
  results: dict[str, Any] = {}
  for name in chosen.configs:
    config = config_lib.load(str(CONFIGS / f"{name}.py"))
    channels, small = IMAGES.get(name, (0, {}))
    config = config_lib.override(
        config, small | ({"training.steps": str(chosen.steps)} if small else {}))
    for law in laws:
      losses, averaged, linear = learned(config, examples(law, channels), seeds=chosen.seeds,
                                         steps=chosen.steps)
      results[f"{name}, {law}"] = {
          "losses": losses.tolist(), "losses of the average": averaged.tolist(), "linear": linear,
          "passed": bool(passed(law, np.minimum(losses, averaged), linear).all())}
      print(f"{name:10} {law:18} linear {linear:.4f}  losses "
            f"{' '.join(f'{loss:.4f}' for loss in losses)}  "
            f"{'' if results[f'{name}, {law}']['passed'] else 'MISSED'}", flush=True)
  measure.write(out, {"machine": measure.machine(), "steps": chosen.steps, "results": results})
  print(f"wrote {out}")
  return 0


def passed(law: str, losses: np.ndarray, linear: float) -> np.ndarray:
  """Whether each loss is below the linear one, or as good where nothing is better."""
  return losses < linear * (1.0 + GAUSSIAN_MARGIN * (law in GAUSSIAN))


def examples(law: str, channels: int = 0) -> np.ndarray:
  """Vectors (n, d) of a law, or images (n, side, side, channels) of patches; standardised."""
  rng = np.random.default_rng(0)
  if not channels:
    x = LAWS[law](rng, 20_000)
    return standardize.standardise(x, *standardize.statistics(x, "vector"))
  tokens = _SIDE // _PATCH
  x = LAWS[law](rng, 2000 * tokens**2 * channels)
  x = x.reshape(-1, tokens, tokens, channels).repeat(_PATCH, 1).repeat(_PATCH, 2)
  return standardize.standardise(x, *standardize.statistics(x, "image"))


def learned(
    config: config_lib.Config, x: np.ndarray, *, seeds: int, steps: int
) -> tuple[np.ndarray, np.ndarray, float]:
  """(losses of the parameters of each seed after so many steps, of their average, linear loss).

  All are means over the dimensions in which the examples x vary.
  """
  x = jnp.asarray(x)
  train, judge = _programs(config, x.shape[1:], steps)
  pairs = [train(seed, x) for seed in range(seeds)]
  losses, averaged, linear = np.array([
      (judge(params, x)[0], *judge(average, x)) for params, average in pairs]).T
  return losses, averaged, float(linear[0])


@functools.cache
def _programs(config: config_lib.Config, shape: tuple[int, ...], steps: int):
  """(seed, x) → parameters and average, (parameters, x) → two losses; one program for all laws."""
  density = build.density(config.objective, build.path(config.path))
  weight, row = build.weight(config.objective, density), build.prediction(config.objective)
  init, apply = build.network(config.network, shape, 0)
  optimizer, averages = build.optimizer(config.training), build.averages(config.training)
  loss = training.diffusion_loss(apply, density=density, weight=weight, prediction=row)
  batch_size = config.training.batch_size

  @jax.jit
  def step(state, seed, x, index):
    batch = x[index], jnp.zeros(batch_size, jnp.int32)
    return training.train_step(state, jax.random.key(seed + 1), batch, loss=loss,
                               optimizer=optimizer, averages=averages)[0]

  def train(seed, x):
    state = training.init(init(jax.random.key(seed)), optimizer, averages=len(averages))
    # One call a step: on CPU the gradient of a convolution is slow inside a loop of XLA's.
    for index in jax.random.randint(jax.random.key(seed + 2), (steps, batch_size), 0, len(x)):
      state = step(state, seed, x, index)
    return state.params, state.ema[0]

  @jax.jit
  def judge(params, x):
    judged = _JUDGED // (1 if len(shape) == 1 else 16)
    rows = lambda x: x.reshape(len(x), -1)
    variances, axes = jnp.linalg.eigh(jnp.atleast_2d(jnp.cov(rows(x), rowvar=False)))
    varies = variances > _VARIES

    def linear(x, ell):
      frame = jax.vmap(predictions.unit_frame)(ell)
      alpha, sigma = frame.alpha[:, None], frame.sigma[:, None]
      gain = alpha * variances[None] / (alpha**2 * variances[None] + sigma**2)
      denoised = (rows(x) @ axes * gain) @ axes.T
      a, b = jax.vmap(row)(frame)
      return (a[:, None] * denoised
              + b[:, None] * (rows(x) - alpha * denoised) / sigma).reshape(x.shape)

    def network(x, ell):
      exact = linear(x, ell)
      more = rows(apply(params, x, ell, labels) - exact)
      return exact + ((more @ axes * varies[None]) @ axes.T).reshape(x.shape)

    index = jax.random.randint(jax.random.key(0), (judged,), 0, len(x))
    drawn = objectives.corruption(jax.random.key(1), x[index], density)
    of = lambda predict: objectives.corrupted_loss(
        predict, x[index], drawn, weight=weight, prediction=row)[0] / jnp.mean(varies)
    labels = jnp.zeros(judged, jnp.int32)
    return of(network), of(linear)

  return train, judge


if __name__ == "__main__":
  # Here, because tests import this module beside others with flags of the same names.
  flags.DEFINE_string("out", "runs/bench/learning.json", "Where to write the numbers.")
  flags.DEFINE_list("configs", ["arrays", "mixture2d", *IMAGES], "Names in experiments/configs.")
  flags.DEFINE_list("laws", [], "Distributions of the data. Default: all.")
  flags.DEFINE_integer("seeds", 4, "Number of seeds of each.")
  flags.DEFINE_integer("steps", 500, "Number of training steps.")
  cli.run(main)
