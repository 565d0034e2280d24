"""The two runs that parts of the report share: an MLP in the plane and the digits DiT.

Each is trained by `experiments.train` in a directory of `<out>/runs` for its density, seed and
length. A finished run is reused and an interrupted one is resumed. The data in the plane are draws
of the density.
"""

import hashlib
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import standardize
from experiments.paper.setting import Setting
from experiments.run import assembly, averages, records, subprocesses
from langevin_jax import mixtures

_POINTS = 60_000  # drawn of the density, a fifth of them held out


class Model(NamedTuple):
  """A trained run with the averaged parameters that sampling uses."""

  run: assembly.Run
  params: Any
  step: int


def plane(setting: Setting) -> pathlib.Path:
  """The workdir of the MLP trained on `setting.density.plane`; trains it if necessary."""
  workdir = setting.out / "runs" / f"plane-{_name(setting)}"
  file = workdir.with_suffix(".npy")
  if not file.exists():
    file.parent.mkdir(parents=True, exist_ok=True)
    points = setting.density.plane.sample(jax.random.key(setting.seed), _POINTS)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
      np.save(stream, np.asarray(points, np.float32))
    temporary.replace(file)
  return _trained(workdir, "mixture2d", {
      "data": f"arrays({str(file.absolute())!r})", "seed": setting.seed,
      "training.steps": 600 if setting.fast else 8000,
      "training.checkpoint_every": 300 if setting.fast else 2000})


def digits(setting: Setting) -> pathlib.Path:
  """The workdir of the DiT of `make demo` (with --fast of a smaller one), trained on digits."""
  sizes = {"training.steps": 80, "training.checkpoint_every": 40, "training.log_every": 20,
           "training.schedule.warmup_steps": 20, "network.width": 32, "network.depth": 2,
           } if setting.fast else {"training.steps": 3000, "training.checkpoint_every": 1000}
  return _trained(setting.out / "runs" / f"digits-{setting.seed}{'-fast' if setting.fast else ''}",
                  "digits", {"seed": setting.seed, **sizes})


def model(workdir: pathlib.Path) -> Model:
  """The run in `workdir`, restored.

  Raises:
    ValueError: no run, or a run without a checkpoint.
  """
  run, state = assembly.trained(workdir)
  choice = averages.named("", run.config.training, workdir)
  return Model(run, averages.of(run, state, workdir, choice)[0], int(state.step))


def truth(density: mixtures.Mixture, run: assembly.Run) -> mixtures.Mixture:
  """The plane's density in the run's standard units."""
  mean, scale = jnp.asarray(run.dataset.mean), jnp.asarray(run.dataset.scale)
  means = density.means - mean[None]
  means = means @ jnp.linalg.inv(scale).T if scale.ndim == 2 else means / scale
  covariances = standardize.covariances(density.covariances, scale)
  return mixtures.Mixture(density.weights, means, covariances)


def facts(workdir: pathlib.Path) -> dict[str, Any]:
  """Facts for the report: command and commit of the training, parameters, seconds, loss by step."""
  lines, manifest = records.read_metrics(workdir), records.read_manifest(workdir)
  if not lines or not all(line.keys() >= {"loss", "seconds"} for line in lines):
    raise ValueError(f"{workdir / 'metrics.jsonl'} is damaged: it lacks losses and seconds; delete "
                     f"{workdir} to train again")
  run = assembly.prepare(records.read_config(workdir))
  shapes = jax.tree.leaves(assembly.abstract_state(run).params)
  return {
      "command": shlex.join(
          ["python", "-m", "experiments.train", *map(str, manifest.get("command", [])[1:])]),
      "commit": manifest.get("commit") or "unknown",
      "parameters": int(sum(np.prod(leaf.shape) for leaf in shapes)),
      "steps": run.config.training.steps, "batch": run.config.training.batch_size,
      "seconds": float(lines[-1]["seconds"]),
      "loss_steps": [line["step"] for line in lines], "loss": [line["loss"] for line in lines]}


def _name(setting: Setting) -> str:
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(setting.density.plane):
    # In single precision, so that parts of both precisions share the run.
    digest.update(np.asarray(leaf, np.float32).round(5).tobytes())
  return f"{setting.density.name}-{digest.hexdigest()[:6]}-{setting.seed}" + (
      "-fast" if setting.fast else "")


def _trained(workdir: pathlib.Path, name: str, overrides: dict[str, Any]) -> pathlib.Path:
  words = [sys.executable, "-m", "experiments.train",
           f"--config=experiments/configs/{name}.py", f"--workdir={workdir.absolute()}",
           *(f"--config.{field}={value}" for field, value in overrides.items())]
  if not _finished(workdir):
    print(f"training {workdir}", flush=True)
    done = subprocess.run(words, cwd=subprocesses.ROOT, stdout=sys.stderr, check=False)
    if done.returncode or not _finished(workdir):
      raise ValueError(f"training {workdir} did not end well (exit code {done.returncode}); try "
                       f"{shlex.join(words[1:])}")
  return workdir


def _finished(workdir: pathlib.Path) -> bool:
  return records.read_manifest(workdir).get("finished", False)

