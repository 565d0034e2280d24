"""Sampling from other initial states than noise: noised examples, or codes of examples.

  python -m experiments.sample --workdir=… --start=pictures.npy --start_level=2
  python -m experiments.sample --workdir=… --encode=held_out --sampler=heun --label=none \\
      --out=codes.npy
  python -m experiments.sample --workdir=… --decode=codes.npy --sampler=heun --label=none

`--start` adds noise to examples up to a level and samples from there (SDEdit). `--encode` follows
the probability-flow ODE from examples to noise, `--decode` from noise to examples. With the same
sampler, grid and labels the two are inverse up to the error of the sampler. Without --label,
held-out examples have their own labels, and codes none. Codes are states at unit scale in standard
units at the grid's first level.
"""

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.run import assembly, records
from experiments.sampling import drawing, inpaint, samplers_from_config
from langevin_jax.samplers import levels

_START = flags.DEFINE_string(
    "start", "", "Examples that are noised to --start_level and sampled from there: a .npy or .png "
    "in the data's units, one example or N; or held_out.")
_ENCODE = flags.DEFINE_string(
    "encode", "", "Examples whose codes are written instead of samples, as in --start.")
_DECODE = flags.DEFINE_string(
    "decode", "", "Codes that are decoded to samples: a .npy that --encode has written.")
_FLAGS = {"start": _START, "encode": _ENCODE, "decode": _DECODE}


def requested(sampling: config_lib.Sampling, *, inpainting: bool) -> str:
  """The name of the flag that is given: start, encode or decode; "" for none.

  Raises:
    ValueError: more than one is given, one is given with inpainting, or with a sampler that cannot
      use it.
  """
  given = [name for name, flag in _FLAGS.items() if flag.value]
  if not given:
    if sampling.start_level:
      raise ValueError("--start_level needs --start beside it: examples that are noised to it")
    return ""
  name = given[0]
  if len(given) > 1 or inpainting:
    raise ValueError(f"--{name} cannot be given with {given[1] if given[1:] else 'inpainting'}: "
                     "each says where samples begin")
  if samplers_from_config.is_adaptive(sampling) or sampling.moments:
    what = "--moments" if sampling.moments else "--sampler=adaptive"
    raise ValueError(f"--{name} cannot be given with {what}, which has a beginning of its own")
  if name == "start" and not sampling.start_level:
    raise ValueError("--start needs --start_level beside it: the noise-to-signal ratio ρ to which "
                     "the examples are noised")
  if name != "start" and sampling.start_level:
    raise ValueError(f"--start_level belongs to --start; --{name} is at the grid's first level")
  if name == "encode" and (
      sampling.stop_level or levels.is_random(samplers_from_config.method(sampling))):
    raise ValueError("--encode follows the ODE up the whole grid: leave stochasticity, churn, "
                     "corrector and stop_level out")
  return name


def read(run: assembly.Run, name: str) -> drawing.Begin | None:
  """The examples or codes of the flag `name`; None for "". Raises ValueError if they do not fit."""
  if not name:
    return None
  flag, dataset = _FLAGS[name], run.dataset
  if name == "decode":
    codes = inpaint.read_examples(flag.value, "--decode", run, dataset.train.shape[1:])
    return drawing.Begin(name, np.asarray(codes, np.float32))
  restored = inpaint.examples(run, flag.value, f"--{name}")
  return drawing.Begin(name, data.in_standard_units(dataset, restored))


def uses_held_out() -> bool:
  """Whether the initial states come from the held-out examples, which have labels."""
  return "held_out" in (_START.value, _ENCODE.value)


def describe(begin: drawing.Begin) -> dict[str, str]:
  """The flag and a digest of the initial states, for the record."""
  return {begin.kind: _FLAGS[begin.kind].value, "sha256": records.sha256({"x": begin.values})}


def files() -> tuple[str, ...]:
  """The input files of the flags, which no output may replace."""
  return tuple(flag.value for flag in _FLAGS.values() if flag.value not in ("", "held_out"))
