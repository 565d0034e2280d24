"""Whether training improves on the best linear denoiser: configs for vectors × distributions.

  python -m experiments.benchmarks.learning --out=runs/bench/learning.json
  python -m experiments.benchmarks.learning --configs=arrays --laws=ring_8,checkerboard --seeds=2

A network that starts at zero soon reaches the loss of the best linear denoiser, which depends on
the covariance of the data alone. Of whitened data a linear denoiser learns nothing. After a number
of steps of the config's training the loss must be below that of the best linear denoiser, for the
same data, levels and noise. For Gaussian data the linear denoiser is optimal, and the two losses
must agree within 2 %.
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

Law = Callable[[np.random.Generator, int], np.ndarray]


def ring(modes: int, std: float) -> Law:
  """`modes` evenly spaced points of the unit circle, plus N(0, std² I)."""
  def draw(rng, n):
    angle = 2.0 * np.pi * rng.integers(modes, size=n) / modes
    return np.stack([np.cos(angle), np.sin(angle)], 1) + std * rng.standard_normal((n, 2))

  return draw


def whitened(law: Law) -> Law:
  """The distribution transformed to mean 0 and covariance I."""
  def draw(rng, n):
    x = law(rng, n)
    return (x - x.mean(0)) @ np.linalg.cholesky(np.linalg.inv(np.cov(x, rowvar=False)))

  return draw


def correlated(first: Callable[[np.random.Generator, int], np.ndarray]) -> Law:
  """A linear mixture of a coordinate from `first` and a Gaussian coordinate."""
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
# The distributions of Gaussian data.
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
    for law in laws:
      losses, linear = learned(config, law, seeds=chosen.seeds, steps=chosen.steps)
      results[f"{name}, {law}"] = {"losses": losses.tolist(), "linear": linear,
                                   "passed": bool(passed(law, losses, linear).all())}
      print(f"{name:10} {law:18} linear {linear:.4f}  losses "
            f"{' '.join(f'{loss:.4f}' for loss in losses)}  "
            f"{'' if results[f'{name}, {law}']['passed'] else 'MISSED'}", flush=True)
  measure.write(out, {"machine": measure.machine(), "steps": chosen.steps, "results": results})
  print(f"wrote {out}")
  return 0


def passed(law: str, losses: np.ndarray, linear: float) -> np.ndarray:
  """Whether each loss is below the linear one; for Gaussian data, within the margin of it."""
  return losses < linear * (1.0 + GAUSSIAN_MARGIN * (law in GAUSSIAN))


def learned(
    config: config_lib.Config, law: str, *, seeds: int, steps: int
) -> tuple[np.ndarray, float]:
  """(loss of each seed after `steps` steps, (seeds,); loss of the best linear denoiser)."""
  x = LAWS[law](np.random.default_rng(0), 20_000)
  x = jnp.asarray(standardize.standardise(x, *standardize.statistics(x, "vector")))
  train, judge = _programs(config, x.shape[1], steps)
  losses, linear = zip(*(judge(train(seed, x), x) for seed in range(seeds)), strict=True)
  return np.asarray(losses), float(linear[0])


@functools.cache
def _programs(config: config_lib.Config, d: int, steps: int):
  """(seed, x) → parameters, and (parameters, x) → the two losses; shared by distributions."""
  density = build.density(config.objective, build.path(config.path))
  weight, row = build.weight(config.objective, density), build.prediction(config.objective)
  init, apply = build.network(config.network, (d,), 0)
  optimizer, averages = build.optimizer(config.training), build.averages(config.training)
  loss = training.diffusion_loss(apply, density=density, weight=weight, prediction=row)
  batch_size = config.training.batch_size

  @jax.jit
  def train(seed, x):
    def step(state, index):
      batch = x[index], jnp.zeros(batch_size, jnp.int32)
      return training.train_step(state, jax.random.key(seed + 1), batch, loss=loss,
                                 optimizer=optimizer, averages=averages)[0], None

    state = training.init(init(jax.random.key(seed)), optimizer, averages=len(averages))
    order = jax.random.randint(jax.random.key(seed + 2), (steps, batch_size), 0, len(x))
    return jax.lax.scan(step, state, order)[0].params

  @jax.jit
  def judge(params, x):
    variances, axes = jnp.linalg.eigh(jnp.atleast_2d(jnp.cov(x, rowvar=False)))

    def linear(x, ell):
      frame = jax.vmap(predictions.unit_frame)(ell)
      alpha, sigma = frame.alpha[:, None], frame.sigma[:, None]
      gain = alpha * variances[None] / (alpha**2 * variances[None] + sigma**2)
      denoised = (x @ axes * gain) @ axes.T
      a, b = jax.vmap(row)(frame)
      return a[:, None] * denoised + b[:, None] * (x - alpha * denoised) / sigma

    index = jax.random.randint(jax.random.key(0), (_JUDGED,), 0, len(x))
    drawn = objectives.corruption(jax.random.key(1), x[index], density)
    of = lambda network: objectives.corrupted_loss(
        network, x[index], drawn, weight=weight, prediction=row)[0]
    labels = jnp.zeros(_JUDGED, jnp.int32)
    return of(lambda x, ell: apply(params, x, ell, labels)), of(linear)

  return train, judge


if __name__ == "__main__":
  # Here, because tests import this module beside others with flags of the same names.
  flags.DEFINE_string("out", "runs/bench/learning.json", "Where to write the numbers.")
  flags.DEFINE_list("configs", ["arrays", "mixture2d"], "Names in experiments/configs.")
  flags.DEFINE_list("laws", [], "Distributions of the data. Default: all.")
  flags.DEFINE_integer("seeds", 4, "Number of seeds of each.")
  flags.DEFINE_integer("steps", 500, "Number of training steps.")
  cli.run(main)
