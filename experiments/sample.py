"""Draws samples from a trained run, along any path, by any method.

  python -m experiments.sample --workdir=runs/digits --path=vp --sampler=ddim --stochasticity=0.7
  python -m experiments.sample --workdir=runs/digits --known=held_out --mask=left

Writes the samples in the user's units (.npy), their labels where there are classes, the resolved
choice (.json), a picture beside real data and one of reverse trajectories (.png). Samples go to
disk batch by batch; the same command again goes on where it was killed, to the same samples.

With `--known` and `--mask` the unknown part of examples is drawn given the known one (inpainting).
With `--start`, `--encode` and `--decode` samples begin elsewhere than at noise (`starts`), and with
`--stop_level` they end before they are clean. `--step` takes another checkpoint than the newest.
"""

import dataclasses
import json
import pathlib
import warnings
from typing import Any

import numpy as np
from absl import flags

import langevin_jax
from experiments import config as config_lib
from experiments import data
from experiments.config import build, calls, cli, sampling_flags
from experiments.data import facts, standardize
from experiments.run import assembly, averages, memory, multihost, progress, records
from experiments.sampling import (
  drawing,
  inpaint,
  optimized_grids,
  pictures,
  resumable_npy,
  samplers_from_config,
  starts,
)
from langevin_jax import paths, samplers
from langevin_jax.samplers import levels
from langevin_jax.samplers.sampling import plan

flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(multihost)
flags.adopt_module_key_flags(inpaint)
flags.adopt_module_key_flags(starts)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many; 1000 if not given, or as many as --known has examples.")
_OUT = flags.DEFINE_string("out", "", "The .npy file; samples.npy in the workdir if not given.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
_LABEL = flags.DEFINE_string(
    "label", "", "One class for all samples, by number or name, or none for the model without "
    "labels. Not given, samples go round the classes; in inpainting they have the labels of "
    "held_out, else none.")
_STEP = flags.DEFINE_integer(
    "step", None, "Checkpoint whose parameters are used; the newest if not given.")
_TRAJECTORY = flags.DEFINE_bool(
    "trajectory", False, "Also write the reverse runs of the first samples, *.trajectory.npy.")

# So many reverse runs are drawn, and more samples make no other picture.
_IMAGES_SHOWN, _POINTS_SHOWN, _SAMPLES_SHOWN = 8, 60, 20_000


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  trained = records.read_config(workdir)
  config = sampling_flags.config(trained)
  assembly.configure_jax(config)
  with multihost.joined(lambda: records.same(config)):
    make(workdir, trained, config)
  return 0


def make(
    workdir: pathlib.Path, trained: config_lib.Config, config: config_lib.Config
) -> None:
  """Everything that the flags ask for of the run in `workdir`, whose own config is `trained`."""
  out = multihost.by_first(lambda: _out(workdir, trained))
  if not 0 <= _SEED.value < 2**31:
    raise ValueError(f"--seed must lie in [0, 2³¹), got {_SEED.value}")
  path = build.path(config.path)
  samplers_from_config.check(config.sampling, path, config.objective)
  average = sampling_flags.ema(trained, workdir)
  painting = inpaint.method(config.sampling)
  begun = starts.kind(config.sampling, inpainting=painting is not None)
  if begun and _TRAJECTORY.value:
    raise ValueError(f"--trajectory shows runs from noise: leave it out with --{begun}")
  if samplers_from_config.is_adaptive(config.sampling) and (
      painting is not None or _TRAJECTORY.value):
    raise ValueError("--sampler=adaptive has no levels at which to keep states or change them: "
                     "choose another sampler for --trajectory and inpainting")
  of_data = next((flag for flag, given in (
      ("--known=held_out", inpaint.is_held_out()), (f"--{begun}=held_out", starts.is_held_out()))
      if given), "")
  dataset, why = multihost.agreed(
      lambda: facts.with_examples(workdir, trained.data, needed_by=of_data))
  if why and multihost.is_first():
    print(f"pictures show samples alone, and no data beside them: {why}", flush=True)
  run = multihost.agreed(lambda: assembly.prepare(
      sampling_flags.on_these_devices(trained), dataset))
  known = None if painting is None else inpaint.known(run, painting[1])
  begin = starts.values(run, begun)
  n = build.at_least("num_samples", _number(known or begin), 1)
  memory.check_sampling(config, run.dataset.train.shape[1:], n, kept=False)
  held_out = inpaint.is_held_out() or starts.is_held_out()
  labels, named = _labels(run, config.sampling, n, given=bool(known or begin), held_out=held_out)
  state = assembly.restored(run, workdir, step=_STEP.value)
  params, ema = averages.of(run, state, workdir, average)
  config = optimized_grids.resolved(
      run, params, int(state.step), config, path, workdir, ema=ema["average"])

  made = {
      "step": int(state.step), "num_samples": n, "seed": _SEED.value, "labels": named,
      "path": calls.plain(config.path), "sampling": config_lib.to_plain(config.sampling),
      "ema": ema, "numerics": records.numerics()}
  if painting is not None:
    made["inpainting"] = calls.plain(painting[0]) | inpaint.described(known)
  if begin is not None:
    made["begin"] = starts.described(begin)
  choice_made = dict(made)
  if not samplers_from_config.is_adaptive(config.sampling):
    made["network_calls"] = samplers_from_config.network_calls(
        config.sampling, path, *([inpaint.wrap(known.method)] if known else []))
  made |= {"commit": records.commit(), "version": langevin_jax.__version__}
  stream = multihost.by_first(
      lambda: resumable_npy.Stream(out, (n, *run.dataset.train.shape[1:]), choice_made,
                             dtype=standardize.dtype(run.dataset.mean, run.dataset.scale)))
  done = int(multihost.broadcast(stream.done if stream else 0))
  if stream and done:
    print(f"going on with {out} at sample {done} of {n}", flush=True)
  draw(run, params, config.sampling, path, labels, known, begin, stream, done)
  # What is left is small: one device of the first process is enough.
  params = params if run.mesh.size == 1 else multihost.fetch(params)

  def finish():
    write(run, params, config, path, labels, known, begin, made, out)
    stream.forget()

  multihost.by_first(finish)


def _out(workdir: pathlib.Path, trained: config_lib.Config) -> pathlib.Path:
  """The .npy file; raises ValueError where it, or what lies beside it, is not to be replaced."""
  out = cli.place("--out", _OUT.value) if _OUT.value else workdir / "samples.npy"
  return cli.out(
      out, lambda made: "sampling" in made and "seed" in made and "metrics" not in made,
      suffix=".npy", unfinished=resumable_npy.unfinished(out),
      beside=(".labels.npy", ".trajectory.npy", ".png", _trajectories(out).name),
      inputs=(*data.files(trained.data), *inpaint.files(), *starts.files()))


def draw(
    run, params, sampling, path, labels, known, begin, stream: resumable_npy.Stream | None,
    done: int,
) -> None:
  """Fills the stream, of which `done` are there, and gives the file its name.

  All processes draw; the first one, which alone has a stream, writes.
  """
  what = "inpainting" if known else "encoding" if begin and begin.kind == "encode" else "sampling"
  with progress.bar(len(labels), done, what, shown=stream is not None) as bar:
    try:
      if done < len(labels):
        for x in drawing.batches(run, params, sampling, path, labels, seed=_SEED.value, start=done,
                                 known=known, begin=begin):
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
        stream.discard()  # refused: there is nothing to go on with
      raise
    finally:
      if stream:
        stream.close()
  if stream:
    stream.finish()


def write(
    run: assembly.Run, params, config: config_lib.Config, path: paths.Path, labels: np.ndarray,
    known: drawing.Known | None, begin: drawing.Begin | None, made: dict[str, Any],
    out: pathlib.Path,
) -> None:
  """Everything that belongs beside the samples in `out`."""
  dataset = run.dataset
  written = [out, out.with_suffix(".json")]
  if dataset.num_classes:
    written.insert(1, out.with_suffix(".labels.npy"))
    np.save(written[1], labels)
  clean = not config.sampling.stop_level and (begin is None or begin.kind != "encode")
  # Arrays that are neither images nor points in a plane or more have no picture.
  has_picture = clean and (dataset.kind == "image" or (
      dataset.kind == "vector" and dataset.train.shape[1] > 1))
  runs_back = has_picture and begin is None
  if runs_back or _TRAJECTORY.value:
    shown = min(len(labels), _POINTS_SHOWN if dataset.kind == "vector" else _IMAGES_SHOWN)
    run_back = lambda sampling: drawing.trajectory(
        run, params, sampling, path, labels[:shown], seed=_SEED.value, known=known)
    # The adaptive solver's own steps are nobody's levels: the ODE is shown on the grid's.
    shown_sampling = config.sampling
    if samplers_from_config.is_adaptive(shown_sampling):
      shown_sampling = dataclasses.replace(shown_sampling, sampler="ddim()")
    chosen = run_back(shown_sampling)
    at = _levels(shown_sampling, path)
  if _TRAJECTORY.value:
    written.insert(1, out.with_suffix(".trajectory.npy"))
    np.save(written[1], _restored(dataset, chosen.x, at))
    made["trajectory"] = {"file": written[1].name, "samples": shown, **_described(at)}
  if has_picture:
    written.append(out.with_suffix(".png"))
    x = np.load(out, mmap_mode="r")[:_SAMPLES_SHOWN]
    if known is None:
      pictures.samples(written[-1], dataset, x, labels[:len(x)])
    else:
      pictures.inpainted(written[-1], dataset, x, known, real=inpaint.is_held_out())
  if runs_back:
    written.append(_trajectories(out))
    other = counterpart(shown_sampling)
    rho = np.exp(-at.half_log_snr)
    with warnings.catch_warnings():
      # The user has not chosen it, and cannot follow advice about it.
      warnings.simplefilter("ignore", samplers.UnresolvedNoise)
      beside = run_back(other)
    within = "" if known is None else f", {made['inpainting']['call']}"
    unit = lambda x: x / at.scale.reshape(-1, *[1] * (x.ndim - 1))
    pictures.trajectories(written[-1], dataset, {
        f"{config.path.name}, {samplers_from_config.title(sampling)}{within}": (rho, unit(states.x))
        for sampling, states in ((shown_sampling, chosen), (other, beside))})
  records.write_text(
      out.with_suffix(".json"), json.dumps(made, indent=2, ensure_ascii=False) + "\n")
  print("wrote " + ", ".join(map(str, written)))


def _trajectories(out: pathlib.Path) -> pathlib.Path:
  """The picture of the reverse runs: by the plain name beside samples.npy, else by the array's."""
  return out.with_name(
      "trajectories.png" if out.stem == "samples" else f"{out.stem}.trajectories.png")


def counterpart(sampling: config_lib.Sampling) -> config_lib.Sampling:
  """From the same noise, the other process of the same Langevin dynamics: SDE for ODE, or ODE."""
  noisy = levels.is_random(samplers_from_config.method(sampling))
  return dataclasses.replace(
      sampling, sampler=f"ddim({0.0 if noisy else 1.0})", brownian=False)


def _number(given: drawing.Known | drawing.Begin | None) -> int:
  """How many samples: as many as there are given examples, unless a flag says it."""
  if _NUM_SAMPLES.value is not None:
    return _NUM_SAMPLES.value
  return 1000 if given is None else len(given.values)


def _labels(
    run: assembly.Run, sampling: config_lib.Sampling, n: int, *, given: bool, held_out: bool
) -> tuple[np.ndarray, Any]:
  """The label of each sample, and how the JSON says it."""
  classes, value = run.dataset.num_classes, _LABEL.value
  labels, named = assembly.even_labels(run, n), "all classes in turn" if classes else None
  if given and not value:
    labels, named = inpaint.held_out_labels(run, n) if held_out else None, "held out"
    value = "none" if labels is None else ""
  if value == "none":
    labels, named = np.full(n, classes, np.int32), None
  elif value:
    names = run.dataset.classes
    number = names.index(value) if value in names else int(value) if value.isdecimal() else classes
    if number >= classes:
      allowed = f"a class in 0 … {classes - 1}, {_few(names)}or none" if classes else (
          f"left out: {run.config.data.name} has no labels")
      raise ValueError(f"--label must be {allowed}; got {value!r}")
    labels, named = np.full(n, number, np.int32), names[number]
  assembly.check_labels(run, sampling, unlabelled=value == "none")
  return labels, named


def _few(names: tuple[str, ...]) -> str:
  """Class names in a message; those that are numbers go without."""
  if not names or names[0].isdecimal():
    return ""
  return ", ".join(names[:10]) + (", …, " if len(names) > 10 else ", ")


def _levels(sampling: config_lib.Sampling, path: paths.Path) -> levels.Level:
  """The levels of a trajectory's states; where the grid rises, of the one before the rise."""
  method, grid, _ = samplers_from_config.process(sampling)
  return plan(path, method, grid).levels


def _restored(dataset: data.Dataset, x: np.ndarray, at: levels.Level) -> np.ndarray:
  """Noisy states xₜ in the user's units: α mean + A xₜ, since x₀ is mean + A x₀."""
  wide = (-1, *[1] * (x.ndim - 1))
  alpha = (at.alpha * at.scale).reshape(wide)
  return standardize.restore(x, dataset.mean, dataset.scale, alpha=alpha)


def _described(at: levels.Level) -> dict[str, list[float | None]]:
  """The levels of a trajectory for JSON, which knows no infinity."""
  values = {"t": at.t, "rho": np.exp(-at.half_log_snr), "alpha": at.alpha * at.scale,
            "sigma": at.sigma * at.scale}
  return {name: [float(v) if np.isfinite(v) else None for v in row] for name, row in values.items()}


if __name__ == "__main__":
  cli.run(main, at_once=True)
