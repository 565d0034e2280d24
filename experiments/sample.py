"""Draws samples from a trained run, along any path, by any method.

  python -m experiments.sample --workdir=runs/digits --path=vp --sampler=ddim --stochasticity=0.7
  python -m experiments.sample --workdir=runs/digits --known=held_out --mask=left

Writes the samples in the user's units (.npy), their labels if there are classes, the settings
(.json), a picture of samples beside real data and one of trajectories (.png); of tokens the text
(.txt), which --known="text with ░░░" fills in. Samples go to disk
batch by batch. After a kill, the same command resumes and gives the same samples.

`--known` and `--mask` sample the unknown part of examples given the known part (inpainting).
`--label` and `--condition` set the condition (`conditioning`). `--start`, `--encode` and `--decode`
replace the initial noise (`starts`). With `--stop_level` the samples stay noisy. `--step` chooses a
checkpoint; the newest is the default.
"""

import pathlib

from absl import flags

import langevin_jax
from experiments import config as config_lib
from experiments import data
from experiments.config import build, calls, cli, sampling_flags
from experiments.data import facts
from experiments.run import assembly, averages, buckets, memory, multihost, records
from experiments.sampling import (
  conditioning,
  drawing,
  inpaint,
  optimized_grids,
  outputs,
  resumable_npy,
  samplers_from_config,
  starts,
)

flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(multihost)
flags.adopt_module_key_flags(conditioning)
flags.adopt_module_key_flags(inpaint)
flags.adopt_module_key_flags(starts)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many; 1000 if not given, or as many as --known has examples.")
_OUT = flags.DEFINE_string("out", "", "The .npy file; samples.npy in the workdir if not given.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.")
_PNGS = flags.DEFINE_string(
    "pngs", "", "A directory that gets each image as a PNG, in folders by class.")
_STEP = flags.DEFINE_integer(
    "step", None, "Checkpoint whose parameters are used; the newest if not given.")
_TRAJECTORY = flags.DEFINE_bool(
    "trajectory", False, "Also write the reverse runs of the first samples, *.trajectory.npy.")


def main() -> int:
  with sampling_flags.named_in_errors():
    workdir = cli.workdir(_WORKDIR.value)
    trained = records.read_config(workdir)
    config = sampling_flags.config(trained)
    assembly.configure_jax(config)
    with multihost.joined(lambda: records.same(config)):
      sample(workdir, trained, config)
  return 0


def sample(
    workdir: pathlib.Path, trained: config_lib.Config, config: config_lib.Config
) -> None:
  """Draws and writes the samples of the flags from the run in `workdir`.

  Args:
    trained: the config of the run. config: the same with the sampling flags.
  """
  out = multihost.by_first(lambda: _out(workdir, trained))
  inpainter, begin_kind = _check_flags(config)
  average = sampling_flags.ema(trained, workdir)
  run = _run(workdir, trained, begin_kind)
  pngs = multihost.by_first(lambda: _pngs(run, config, begin_kind, trained))
  known = None if inpainter is None else inpaint.read_known(run, inpainter[1])
  begin = starts.read(run, begin_kind)
  n = build.at_least("num_samples", _number(known or begin), 1)
  memory.check_sampling(config, run.dataset.train.shape[1:], n, run.mesh, kept=False)
  held_out = inpaint.uses_held_out() or starts.uses_held_out()
  condition, condition_text = conditioning.requested(
      run, config.sampling, n, given=bool(known or begin), held_out=held_out,
      of_codes=starts.condition_of_codes(run.dataset, begin, n))
  state = assembly.restored(run, workdir, step=_STEP.value)
  params, ema = averages.of(run, state, workdir, average)
  path = build.path(config.path, len(run.dataset.vocabulary))
  config = optimized_grids.resolve(
      run, params, int(state.step), config, path, workdir, ema=ema["average"])
  drawn = outputs.Drawn(run, params, config, path, n, condition, _SEED.value, known, begin)

  record = outputs.settings(drawn, int(state.step), ema) | {"labels": condition_text}
  if isinstance(condition, dict):
    record["condition_sha256"] = records.sha256(condition)
  if inpainter is not None:
    record["inpainting"] = (calls.to_plain(inpainter[0]) if inpainter[0] else {}
                            ) | inpaint.describe(known)
  if begin is not None:
    record["begin"] = starts.describe(begin)
  stream = multihost.by_first(lambda: outputs.stream(out, drawn, dict(record)))
  outputs.draw(drawn, stream)
  # The rest is little work, for one device of the first process.
  drawn = drawn._replace(params=params if run.mesh.size == 1 else multihost.fetch(params))

  def finish():
    if not samplers_from_config.is_adaptive(config.sampling):
      record["network_calls"] = samplers_from_config.network_calls(
          config.sampling, path,
          *([inpaint.for_counting(known.method)] if known and known.method else []))
    record.update(commit=records.commit(), version=langevin_jax.__version__)
    outputs.write(out, drawn, record, held_out=inpaint.uses_held_out(),
                  trajectory=_TRAJECTORY.value, pngs=pngs)
    stream.forget()

  multihost.by_first(finish)


def _check_flags(
    config: config_lib.Config
) -> tuple[inpaint.Method | None, str]:
  """(the call and method of inpainting or None, the kind of initial states or "").

  Raises:
    ValueError: flags that exclude each other.
  """
  if not 0 <= _SEED.value < 2**31:
    raise ValueError(f"--seed must lie in [0, 2³¹), got {_SEED.value}")
  path = build.path(config.path)
  samplers_from_config.check(config.sampling, path, config.objective)
  tokens = build.is_discrete(path)
  inpainter = inpaint.method(config.sampling, tokens=tokens)
  begin_kind = starts.requested(
      config.sampling, inpainting=inpainter is not None, tokens=tokens)
  if begin_kind and _TRAJECTORY.value:
    raise ValueError(f"--trajectory shows runs from noise: leave it out with --{begin_kind}")
  if samplers_from_config.is_adaptive(config.sampling) and (
      inpainter is not None or _TRAJECTORY.value):
    raise ValueError("--sampler=adaptive has no levels at which to keep states or change them: "
                     "choose another sampler for --trajectory and inpainting")
  return inpainter, begin_kind


def _run(workdir: pathlib.Path, trained: config_lib.Config, begin_kind: str) -> assembly.Run:
  """The trained run on these devices; without its data if they are missing and not needed."""
  needed_by = next((flag for flag, given in (
      ("--known=held_out", inpaint.uses_held_out()),
      (f"--{begin_kind}=held_out", starts.uses_held_out())) if given), "")
  dataset, reason = multihost.agreed(
      lambda: facts.with_examples(workdir, trained.data, needed_by=needed_by))
  if reason and multihost.is_first():
    print(f"pictures show samples alone, and no data beside them: {reason}", flush=True)
  return multihost.agreed(lambda: assembly.prepare(
      sampling_flags.on_these_devices(trained), dataset))


def _out(workdir: pathlib.Path, trained: config_lib.Config) -> pathlib.Path:
  """The .npy file; raises ValueError if it, or a file beside it, must not be replaced."""
  out = cli.place("--out", _OUT.value) if _OUT.value else workdir / "samples.npy"
  return cli.out(
      out, lambda record: "sampling" in record and "seed" in record and "metrics" not in record,
      suffix=".npy", unfinished=resumable_npy.unfinished(out), beside=outputs.beside(out),
      inputs=_inputs(trained))


def _pngs(
    run: assembly.Run, config: config_lib.Config, begin_kind: str, trained: config_lib.Config
) -> pathlib.Path | None:
  """The directory of --pngs, or None without the flag.

  Raises:
    ValueError: samples are not clean images, or the directory holds other files.
  """
  if not _PNGS.value:
    return None
  shape = data.example_shape(run.dataset)
  if run.dataset.kind != "image" or shape[-1] not in (1, 3, 4):
    raise ValueError("--pngs needs images of 1, 3 or 4 channels; the data are examples of shape "
                     f"{shape}")
  if begin_kind == "encode" or config.sampling.stop_level:
    raise ValueError("--pngs needs clean samples: leave --encode and --stop_level out")
  directory = cli.place("--pngs", _PNGS.value)
  try:
    records.check_not_owned([directory, directory / "0.png"], _inputs(trained))
  except ValueError as error:
    raise ValueError(str(error).replace("--out", "--pngs")) from error
  is_sample = lambda file: file.is_dir() or (file.suffix == ".png" and file.stem.isdecimal())
  files = ([*directory.glob("*"), *directory.glob("*/*")] if buckets.is_bucket(directory)
           else directory.rglob("*"))
  if directory.exists() and not (directory.is_dir() and all(map(is_sample, files))):
    raise ValueError(f"--pngs={directory} must be a new directory, or one that --pngs has made")
  return directory


def _inputs(trained: config_lib.Config) -> tuple[str, ...]:
  """The input files, which no output may replace."""
  return (*data.files(trained.data), *inpaint.files(), *starts.files())


def _number(given: drawing.Known | drawing.Begin | None) -> int:
  """The number of samples: --num_samples, else that of the given examples, else 1000."""
  if _NUM_SAMPLES.value is not None:
    return _NUM_SAMPLES.value
  return 1000 if given is None else len(given.values)


if __name__ == "__main__":
  cli.run(main, at_once=True)
