"""Samples of a command, drawn into a .npy batch by batch, and the files beside them.

These are labels, the record, trajectories and pictures.
"""

import dataclasses
import json
import pathlib
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import calls
from experiments.data import standardize, tables
from experiments.run import assembly, multihost, progress, records
from experiments.sampling import (
  conditioning,
  drawing,
  pictures,
  resumable_npy,
  samplers_from_config,
  texts,
)
from langevin_jax import samplers
from langevin_jax.samplers import levels
from langevin_jax.samplers.sampling import plan

# The numbers of trajectories of images and of points, and of samples, in a picture.
_IMAGES_SHOWN, _POINTS_SHOWN, _SAMPLES_SHOWN = 8, 60, 20_000


class Drawn(NamedTuple):
  """n samples of a command: their model, process, condition, and known or initial values.

  condition: labels (n,), or named arrays (n, …).
  """

  run: assembly.Run
  params: Any
  config: config_lib.Config
  path: Any
  n: int
  condition: Any
  seed: int
  known: drawing.Known | None
  begin: drawing.Begin | None

  @property
  def ends_clean(self) -> bool:
    """Whether the samples are data: neither noisy nor codes."""
    return not self.config.sampling.stop_level and (
        self.begin is None or self.begin.kind != "encode")

  @property
  def has_picture(self) -> bool:
    """Whether the samples are drawn."""
    return self.ends_clean and pictures.can_draw(self.run.dataset)


def settings(drawn: Drawn, step: int, ema: dict[str, Any]) -> dict[str, Any]:
  """What the samples depend on, besides their condition: for the record, and to resume by."""
  return {
      "step": step, "num_samples": drawn.n, "seed": drawn.seed,
      "path": calls.to_plain(drawn.config.path),
      "sampling": config_lib.to_plain(drawn.config.sampling), "ema": ema,
      "numerics": records.numerics()}


def stream(
    file: pathlib.Path, drawn: Drawn, settings: dict[str, Any], *, scratch: bool = False
) -> resumable_npy.Stream:
  """The array on disk that `draw` fills. `scratch`, and what is raised: as `resumable_npy.Stream`.
  """
  dataset = drawn.run.dataset
  shape = data.example_shape(dataset) if drawn.ends_clean else dataset.train.shape[1:]
  return resumable_npy.Stream(
      file, (drawn.n, *shape), settings, scratch=scratch, dtype=np.dtype(np.int32) if
      dataset.vocabulary else standardize.dtype(dataset.mean, dataset.scale))


def draw(drawn: Drawn, stream: resumable_npy.Stream | None) -> None:
  """Draws the samples and writes them to the stream, from its first missing row on.

  All processes draw. Only the first has a stream and writes.
  """
  begin, n = drawn.begin, drawn.n
  done = int(multihost.broadcast(stream.done if stream else 0))
  if stream and done:
    print(f"going on with {stream.file} at sample {done} of {n}", flush=True)
  activity = ("inpainting" if drawn.known else "encoding" if begin and begin.kind == "encode"
              else "sampling")
  with progress.bar(n, done, activity, shown=stream is not None) as bar:
    try:
      if done < n:
        for x in drawing.batches(
            drawn.run, drawn.params, drawn.config.sampling, drawn.path, drawn.condition,
            seed=drawn.seed, start=done, known=drawn.known, begin=begin):
          done += len(x)
          if stream:
            stream.write(x)
          bar(done)
    except FloatingPointError:
      if stream:
        stream.discard()
      raise
    except Exception:
      if stream and not stream.done:
        stream.discard()  # failed before the first batch: there is nothing to resume
      raise
    finally:
      if stream:
        stream.close()
  if stream:
    stream.finish()


def beside(out: pathlib.Path) -> tuple[str, ...]:
  """Suffixes or names of the files that `write` may write beside `out`."""
  return (".labels.npy", ".conditions.npz", ".trajectory.npy", ".png", ".txt", ".trajectory.txt",
          _trajectories(out).name)


def write(
    out: pathlib.Path, drawn: Drawn, record: dict[str, Any], *, held_out: bool, trajectory: bool,
    pngs: pathlib.Path | None,
) -> None:
  """Writes all files beside the samples in `out`, and prints their names.

  Args:
    record: the settings of the command, for the .json.
    held_out: whether the known values are held-out data, so that real values can be shown.
    trajectory: whether the trajectories of the first samples are written.
    pngs: the directory for one PNG per image, if any.
  """
  dataset = drawn.run.dataset
  labels = conditioning.class_numbers(dataset, drawn.condition, drawn.n)
  written = [out, out.with_suffix(".json")]
  if dataset.num_classes:
    written.insert(1, out.with_suffix(".labels.npy"))
    _save(written[1], labels)
  if dataset.conditions:
    written.insert(1, out.with_suffix(".conditions.npz"))
    with records.written(written[1]) as stream:
      np.savez(stream, **drawn.condition)
  if dataset.vocabulary:
    written += _texts(out, drawn, record, trajectory=trajectory)
    trajectory = False
  has_trajectories = drawn.has_picture and drawn.begin is None and dataset.codec is None
  reverse = _Trajectories(drawn) if has_trajectories or trajectory else None
  if trajectory:
    written.insert(1, out.with_suffix(".trajectory.npy"))
    _save(written[1], reverse.restored())
    record["trajectory"] = {"file": written[1].name, "samples": reverse.n, **reverse.levels()}
  if drawn.has_picture:
    written.append(out.with_suffix(".png"))
    x = records.load(out)[:_SAMPLES_SHOWN]
    if drawn.known is None:
      pictures.samples(written[-1], dataset, x, labels[:len(x)])
    else:
      pictures.inpainted(written[-1], dataset, x, drawn.known, real=held_out)
  if has_trajectories:
    written.append(_trajectories(out))
    reverse.draw(written[-1], "" if drawn.known is None else f", {record['inpainting']['call']}")
  if pngs is not None:
    written.append(pngs)
    pictures.write_pngs(pngs, dataset, records.load(out), labels)
  records.write_text(
      out.with_suffix(".json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
  print("wrote " + ", ".join(map(str, written)))


def _texts(
    out: pathlib.Path, drawn: Drawn, record: dict[str, Any], *, trajectory: bool
) -> list[pathlib.Path]:
  """Writes samples of tokens as text, and prints some; the names of what was written."""
  dataset, written = drawn.run.dataset, [out.with_suffix(".txt")]
  x = records.load(out)
  texts.write(written[0], dataset, x[:_SAMPLES_SHOWN])
  texts.show(dataset, x)
  if tables.columns_of(dataset.vocabulary):
    written.append(out.with_suffix(".csv"))
    content, wrong = tables.as_csv(records.load(out), dataset.vocabulary)
    records.write_text(written[-1], content)
    record["cells_without_a_value_of_their_column"] = wrong
  if trajectory:
    written += [out.with_suffix(".trajectory.npy"), out.with_suffix(".trajectory.txt")]
    n = min(drawn.n, texts.TRAJECTORIES)
    t, states = drawing.trajectory(
        drawn.run, drawn.params, drawn.config.sampling, drawn.path, drawn.condition[:n],
        seed=drawn.seed, known=drawn.known)
    _save(written[1], states)
    texts.write_trajectory(written[2], dataset, t, states)
    record["trajectory"] = {"file": written[1].name, "samples": n,
                            **texts.levels(drawn.path.clock, t)}
  return written


def _save(file: pathlib.Path, array: np.ndarray) -> None:
  with records.written(file) as stream:
    np.save(stream, array)


class _Trajectories:
  """The trajectories of the first n samples.

  An adaptive solver has none: `ddim` on the grid, with the same stochasticity, stands for it.
  """

  def __init__(self, drawn: Drawn):
    self._drawn, self._dataset = drawn, drawn.run.dataset
    limit = _POINTS_SHOWN if self._dataset.kind == "vector" else _IMAGES_SHOWN
    self.n = min(limit, drawn.n)
    self._condition = jax.tree.map(lambda values: values[:self.n], drawn.condition)
    self._sampling = drawn.config.sampling
    if samplers_from_config.is_adaptive(self._sampling):
      eta = self._sampling.sampler.get("stochasticity", 0.0)
      self._sampling = dataclasses.replace(self._sampling, sampler=f"ddim({eta})")
    self._states = self._run(self._sampling)
    # At a step where the noise level rises, this is the level before the rise.
    method, grid, _ = samplers_from_config.process(self._sampling)
    self._levels = plan(drawn.path, method, grid).levels

  def _run(self, sampling: config_lib.Sampling) -> np.ndarray:
    """The states (steps + 1, n, *shape) of a process, from the same noise."""
    drawn = self._drawn
    return drawing.trajectory(drawn.run, drawn.params, sampling, drawn.path, self._condition,
                              seed=drawn.seed, known=drawn.known).x

  def restored(self) -> np.ndarray:
    """The states xₜ (steps + 1, n, *shape) in the user's units, or of latents: α mean + A xₜ."""
    alpha = (self._levels.alpha * self._levels.scale).reshape(
        -1, *[1] * (self._states.ndim - 1))
    return standardize.restore(
        self._states, self._dataset.mean, self._dataset.scale, alpha=alpha)

  def levels(self) -> dict[str, list[float | None]]:
    """t, ρ, α and σ of the states, for JSON: None stands for infinity."""
    level = self._levels
    values = {"t": level.t, "rho": np.exp(-level.half_log_snr), "alpha": level.alpha * level.scale,
              "sigma": level.sigma * level.scale}
    return {name: [float(v) if np.isfinite(v) else None for v in row]
            for name, row in values.items()}

  def draw(self, file: pathlib.Path, within: str) -> None:
    """Draws the trajectories beside those of `counterpart` from the same noise.

    Args:
      within: text that is added to the titles.
    """
    other = counterpart(self._sampling)
    with warnings.catch_warnings():
      # The user did not choose this process, so advice about it would not help.
      warnings.simplefilter("ignore", samplers.UnresolvedNoise)
      other_states = self._run(other)
    rho, name = np.exp(-self._levels.half_log_snr), self._drawn.config.path.name
    unit = lambda x: x / self._levels.scale.reshape(-1, *[1] * (x.ndim - 1))
    pictures.trajectories(file, self._dataset, {
        f"{name}, {samplers_from_config.title(sampling)}{within}": (rho, unit(states))
        for sampling, states in ((self._sampling, self._states), (other, other_states))})


def counterpart(sampling: config_lib.Sampling) -> config_lib.Sampling:
  """The other process with the same marginals: the SDE for the ODE, the ODE for an SDE."""
  noisy = levels.is_random(samplers_from_config.method(sampling))
  return dataclasses.replace(
      sampling, sampler=f"ddim({0.0 if noisy else 1.0})", brownian=False)


def _trajectories(out: pathlib.Path) -> pathlib.Path:
  """The picture of trajectories: trajectories.png for samples.npy, else NAME.trajectories.png."""
  return out.with_name(
      "trajectories.png" if out.stem == "samples" else f"{out.stem}.trajectories.png")
