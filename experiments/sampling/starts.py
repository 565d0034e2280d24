"""Sampling from other initial states than noise: noised examples, or codes of examples.

  python -m experiments.sample --workdir=… --start=pictures.npy --start_level=2
  python -m experiments.sample --workdir=… --encode=held_out --sampler=heun --label=none \\
      --out=codes.npy
  python -m experiments.sample --workdir=… --decode=codes.npy --sampler=heun

`--start` adds noise to examples up to a level and samples from there (SDEdit). `--encode` follows
the probability-flow ODE from examples to noise, `--decode` from noise to examples. With the same
sampler, grid and labels the two are inverse up to the error of the sampler. Without --label,
held-out examples have their own labels, and codes those with which --encode has written them, in
the .labels.npy or .conditions.npz beside them. Codes are states at unit scale in standard units at
the grid's first level.
"""

from typing import Any

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.data import readers
from experiments.run import assembly, conditions, records
from experiments.run import files as files_lib
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


def requested(sampling: config_lib.Sampling, *, inpainting: bool, tokens: bool = False) -> str:
  """The name of the flag that is given: start, encode or decode; "" for none.

  Raises:
    ValueError: more than one is given, one is given with inpainting, or with a sampler that cannot
      use it; the data are `tokens`.
  """
  given = [name for name, flag in _FLAGS.items() if flag.value]
  if given and tokens:
    raise ValueError(f"--{given[0]} is for numbers, and these data are tokens: --known keeps a "
                     "part of them")
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


def condition_of_codes(dataset: data.Dataset, begin: drawing.Begin | None, n: int) -> Any:
  """The labels or named arrays of n codes of --decode; None where no file beside them has any.

  Raises:
    ValueError: that file cannot be read, or does not fit the codes or the model.
  """
  if begin is None or begin.kind != "decode" or not (dataset.conditions or dataset.num_classes):
    return None
  suffix = ".conditions.npz" if dataset.conditions else ".labels.npy"
  file = files_lib.path("--decode", _DECODE.value).with_suffix(suffix)
  if not file.exists():
    return None
  found = readers.read_numpy(str(file), "--decode")
  arrays = found if isinstance(found, dict) else {"label": found}
  if any(values.shape[:1] != begin.values.shape[:1] for values in arrays.values()) or (
      suffix == ".labels.npy" and not _are_classes(found, dataset.num_classes)):
    raise ValueError(f"--decode: {file} must have one label a code, in 0 … {dataset.num_classes}; "
                     "delete it, or give --label")
  taken = {name: values[np.arange(n) % len(values)] for name, values in arrays.items()}
  return (conditions.given(dataset, taken, n, dropout=1.0) if dataset.conditions
          else taken["label"].astype(np.int32))


def _are_classes(labels: Any, num_classes: int) -> bool:
  """Whether it is (n,) class numbers, `num_classes` for none."""
  return isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu" and bool(
      np.isin(labels, np.arange(num_classes + 1)).all())


def uses_held_out() -> bool:
  """Whether the initial states come from the held-out examples, which have labels."""
  return "held_out" in (_START.value, _ENCODE.value)


def describe(begin: drawing.Begin) -> dict[str, str]:
  """The flag and a digest of the initial states, for the record."""
  return {begin.kind: _FLAGS[begin.kind].value, "sha256": records.sha256({"x": begin.values})}


def files() -> tuple[str, ...]:
  """The input files of the flags, which no output may replace."""
  return tuple(flag.value for flag in _FLAGS.values() if flag.value not in ("", "held_out"))
