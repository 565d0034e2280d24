"""Draws samples from a trained run, along any path, by any method.

  python -m experiments.sample --workdir=runs/digits --path=vp --sampler=ddim --stochasticity=0.7

Writes the samples in the user's units (.npy), their labels where there are classes, the resolved
choice (.json), a picture beside real data and one of reverse trajectories (.png).
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import build, choice, cli, plots, progress, records, runs
from experiments import config as config_lib
from langevin_jax import paths, samplers

flags.adopt_module_key_flags(choice)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "How many.")
_OUT = flags.DEFINE_string("out", "", "The .npy file; samples.npy in the workdir if not given.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
_LABEL = flags.DEFINE_integer("label", -1, "One class for all samples; -1 goes round the classes.")


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = choice.config(records.read_config(workdir))
  runs.configure_jax(config)
  build.at_least("num_samples", _NUM_SAMPLES.value, 1)
  out = pathlib.Path(_OUT.value or workdir / "samples.npy")
  if out.suffix != ".npy":
    raise ValueError(f"--out must end in .npy, got {out}")
  path = build.path(config.path)
  build.method(config.sampling)
  build.grid(config.sampling)
  run, state = runs.trained(workdir)
  labels = runs.even_labels(run, _NUM_SAMPLES.value)
  build.at_least("label", _LABEL.value, -1)
  if _LABEL.value >= 0:
    if _LABEL.value >= run.dataset.num_classes:
      raise ValueError(f"--label must be below the number of classes, {run.dataset.num_classes}")
    labels = np.full_like(labels, _LABEL.value)
  with progress.bar(len(labels), 0, "sampling") as bar:
    x = runs.draw(run, state.ema, config.sampling, path, labels, seed=_SEED.value, progress=bar)
  write(run, state, config, path, x, labels, out)
  return 0


def write(
    run: runs.Run, state, config: config_lib.Config, path: paths.Path, x: np.ndarray,
    labels: np.ndarray, out: pathlib.Path,
) -> None:
  """The samples and everything that belongs beside them."""
  out.parent.mkdir(parents=True, exist_ok=True)
  written = [out, out.with_suffix(".json")]
  np.save(out, x)
  if run.dataset.num_classes:
    written.insert(1, out.with_suffix(".labels.npy"))
    np.save(written[1], labels)
  records.write_text(out.with_suffix(".json"), json.dumps({
      "step": int(state.step), "num_samples": len(x), "seed": _SEED.value,
      "path": dataclasses.asdict(config.path), "sampling": dataclasses.asdict(config.sampling),
  }, indent=2) + "\n")
  # Arrays that are neither images nor points in a plane or more have no picture.
  if run.dataset.kind == "image" or (run.dataset.kind == "vector" and x.shape[1] > 1):
    written += [out.with_suffix(".png"), out.with_name("trajectories.png")]
    plots.samples(written[-2], run.dataset, x, labels)
    plots.trajectories(written[-1], run.dataset, reverse_runs(run, state.ema, config, path))
  print("wrote " + ", ".join(map(str, written)))


def reverse_runs(
    run: runs.Run, params, config: config_lib.Config, path: paths.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """From the same noise, the ODE (η = 0) and the SDE (η = 1) of the same Langevin dynamics."""
  grid = build.grid(config.sampling)
  count = 8 if run.dataset.kind == "image" else 60
  shape = (count, *run.dataset.train.shape[1:])
  labels = jnp.asarray(runs.even_labels(run, count))
  keys = jax.random.split(jax.random.key(_SEED.value), count)

  def reverse(params, eta):
    states = samplers.trajectory(
        keys, runs.denoiser(run, params, path, labels), path, shape=shape,
        method=samplers.ddim(eta), grid=grid)
    alpha, sigma = jax.vmap(path.alpha)(states.t), jax.vmap(path.sigma)(states.t)
    unit = jax.vmap(lambda x, a, s: x / jnp.hypot(a, s))(states.x[:-1], alpha[:-1], sigma[:-1])
    return jnp.concatenate([unit, states.x[-1:]])

  rho = np.asarray(grid(path))
  return {f"{config.path.name}, η = {eta:g}": (rho, np.asarray(
      jax.jit(reverse, static_argnums=1)(params, eta))) for eta in (0.0, 1.0)}


if __name__ == "__main__":
  cli.run(main)
