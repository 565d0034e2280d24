"""What an experiment is: frozen dataclasses, made by a Python file, overridden by flags.

`--config=file.py` names a file with `get_config() -> Config`; `--config.a.b=value` replaces one
field of what it returns, or one argument of a call. A field of type `Call` is written as text,
`network="dit(width=96)"`, and checked when the dataclass is made (`calls`); so are all types.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from experiments.config import calls
from experiments.config.calls import Call


class _Checked:
  """A dataclass whose values are converted to its fields' types, or refused by the field's name."""

  def __post_init__(self):
    group = type(self).__name__.lower()
    for field in dataclasses.fields(self):
      name = f"config.{field.name}" if group == "config" else f"config.{group}.{field.name}"
      value = getattr(self, field.name)
      if _is_group(field):
        if type(value) is not field.type:
          raise ValueError(f"{name}: expected a {field.type.__name__}, got {calls.one_line(value)}")
        continue
      value = (calls.make(value, field.name, name) if _is_call(field)
               else calls.convert(value, field.type, name))
      object.__setattr__(self, field.name, value)


@dataclasses.dataclass(frozen=True)
class Objective(_Checked):
  """The loss: density π(ℓ) × weight w(ℓ), computed on the row `prediction` of Table 5.

  flow_map: None, or the identity by which a network of two levels learns the average denoiser.
  autoencoder: None, or the loss of a network that is an autoencoder; the other fields are unused.
  teacher: None, or the workdir of an ordinary run whose velocity takes the place of the data's.
  """

  prediction: Call = "velocity()"
  density: Call = "logit_normal_s(rho_min=0.002, rho_max=500)"
  weight: Call = "flow_matching()"
  flow_map: Call | None = None
  teacher: str | None = None
  autoencoder: Call | None = None


@dataclasses.dataclass(frozen=True)
class Training(_Checked):
  """How to learn; everything is counted in steps.

  `batch_size` examples make a step, over all devices; their gradient is summed up over
  `accumulation` parts of the batch, one after another. Up to `steps_per_dispatch` steps run in one
  compiled loop, which also spares a CPU the re-allocation of its buffers: as many as take a second,
  and one where a CPU would compute the gradient of a convolution in the loop. How many are taken
  changes no result. No more than `dispatches_in_flight` are sent ahead of what is read.
  `cpu_devices` makes as many virtual devices of a CPU; of accelerators all are used.

  Samplers use the first average of the parameters, of `ema_half_life_steps`. Averages of
  `ema_relative_std`, the power functions of Karras et al. 2024, are kept besides, as snapshots
  every `snapshot_every` steps (0: none), from which an average of any length is made afterwards.

  Every `sample_every` steps samples of the first average go to samples/ in the workdir, every
  `evaluate_every` steps its held-out loss to metrics.jsonl (0: never), with `evaluate_metrics`:
  keys of evaluation.json such as c2st or fid, and calls as of `evaluate --metric`, of
  `evaluation.num_samples` or 1,000 samples.
  `logger` gets numbers and pictures besides; None is metrics.jsonl alone.
  """

  steps: int = 4000
  batch_size: int = 128
  learning_rate: float = 1e-3
  schedule: Call = "cosine()"
  optimizer: Call = "adamw()"
  gradient_clip: float = 1.0
  accumulation: int = 1
  ema_half_life_steps: tuple[float, ...] = (200.0,)
  ema_relative_std: tuple[float, ...] = ()
  snapshot_every: int = 0
  label_dropout: float = 0.1
  steps_per_dispatch: int = 1
  dispatches_in_flight: int = 2
  cpu_devices: int = 1
  checkpoint_every: int = 500
  keep_checkpoints: int = 3
  log_every: int = 50
  sample_every: int = 0
  evaluate_every: int = 0
  evaluate_metrics: tuple[str, ...] = ()
  logger: Call | None = "tensorboard()"


@dataclasses.dataclass(frozen=True)
class Mesh(_Checked):
  """All devices as data × fsdp × tensor; −1, in one of them, is the rest.

  Batches are split over data and fsdp, parameters, averages and the optimizer's state over fsdp and
  tensor, by the table in `langevin_jax.training.shardings`. What is learned does not depend on it,
  but for rounding: a run may go on, and be sampled, on another mesh.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Sampling(_Checked):
  """How to draw: a sampler on a grid of noise levels.

  Of the grid, the part from start_level to stop_level is run (ρ; 0: all of it). moments: the first
  state has the training data's mean and variances. brownian: the noise of a sample is one Brownian
  path, the same on every grid. guidance: None, or classifier-free; a number is its weight. clip:
  every prediction of x₀ is limited to the range of the data, which are images.
  """

  sampler: Call = "ddim()"
  grid: Call = "karras(50)"
  guidance: Call | None = None
  start_level: float = 0.0
  stop_level: float = 0.0
  moments: bool = False
  brownian: bool = False
  clip: bool = False
  batch_size: int = 500


@dataclasses.dataclass(frozen=True)
class Evaluation(_Checked):
  """How many samples are judged (0: as many as there are real examples), and with which seed."""

  num_samples: int = 0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config(_Checked):
  """One experiment. `seed` sets parameters, batches, noise and samples alike.

  A network does not depend on the path. In training it is the clock of the density `uniform_time`;
  in sampling it is the process that is run.
  """

  data: Call = "digits()"
  path: Call = "rectified_flow()"
  network: Call = "dit()"
  objective: Objective = dataclasses.field(default_factory=Objective)
  training: Training = dataclasses.field(default_factory=Training)
  mesh: Mesh = dataclasses.field(default_factory=Mesh)
  sampling: Sampling = dataclasses.field(default_factory=Sampling)
  evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
  seed: int = 0


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of every field; of a call its name, and then each argument."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    name = prefix + field.name
    if dataclasses.is_dataclass(value) and not isinstance(value, Call):
      yield from flatten(value, f"{name}.")
    elif isinstance(value, Call):
      yield name, value.name
      yield from ((f"{name}.{key}", argument) for key, argument in value.arguments)
    else:
      yield name, value


def override(config: Config, values: Mapping[str, Any]) -> Config:
  """`config` with fields and arguments of dotted names replaced; text is read as their type.

  Raises:
    ValueError: a name that is no field (with the nearest one), or a value of another type.
  """
  values = dict(values)
  # A call before its arguments, in whatever order they are given.
  for name in sorted(values, key=lambda name: name.count(".")):
    if name in values:
      value = values.pop(name)
      if isinstance(value, str) and "(" not in value:
        # Arguments that are given beside a bare name may be ones that its function requires.
        rest = [other for other in values if other.startswith(f"{name}.")
                and "." not in other.removeprefix(f"{name}.")]
        value = calls.Bare(value, {other.removeprefix(f"{name}."): values.pop(other)
                                   for other in rest}) if rest else value
      config = _replace(config, name.split("."), name, value)
  return config


def _replace(node: Any, parts: list[str], name: str, value: Any) -> Any:
  fields = {field.name: field for field in dataclasses.fields(node)}
  head, rest = parts[0], parts[1:]
  if head not in fields:
    near = difflib.get_close_matches(head, fields, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"config.{name}: no field {head!r}{hint}; there are {', '.join(fields)}")
  field, old = fields[head], getattr(node, head)
  if _is_call(field):
    place = f"config.{name}".removesuffix("".join(f".{part}" for part in rest))
    return dataclasses.replace(node, **{head: calls.replace(old, rest, value, head, place)})
  if _is_group(field) != bool(rest):
    kind = "a single field" if rest else "a group of fields: name one of them"
    raise ValueError(f"config.{name}: {head!r} is {kind}")
  return dataclasses.replace(node, **{head: _replace(old, rest, name, value) if rest else value})


def load(file: str) -> Config:
  """The config of a Python file, or of a shipped one by its name, such as digits.

  Raises:
    ValueError: no such file, or one that makes no Config.
  """
  shipped = pathlib.Path(__file__).parent.parent / "configs"
  path = pathlib.Path(os.path.expanduser(file))
  if not path.is_file() and file.isidentifier():
    path = shipped / f"{file}.py"
  if not path.is_file():
    names = ", ".join(sorted(each.stem for each in shipped.glob("[a-z]*.py")))
    raise ValueError(f"config: no file {file!r}; shipped ones are {names}")
  try:
    config = runpy.run_path(str(path)).get("get_config", lambda: None)()
  except (Exception, SystemExit) as error:  # whatever the user's own Python raises
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    raise ValueError(f"config: {file}: {kind}{error}") from error
  if not isinstance(config, Config):
    raise ValueError(f"config: {file!r} must define get_config() returning a config.Config")
  return config


def to_plain(config: Any) -> Any:
  """A config, or a group of its fields, as JSON has it."""
  if isinstance(config, Call) or not dataclasses.is_dataclass(config):
    return calls.to_plain(config)
  return {field.name: to_plain(getattr(config, field.name))
          for field in dataclasses.fields(config)}


def to_json(config: Config) -> str:
  """The config as JSON: {"network": {"call": "dit", "width": 96, …}, …}."""
  return json.dumps(to_plain(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Config:
  """The config that `to_json` wrote.

  Raises:
    ValueError: not such a text, or one with fields that this version does not have.
  """
  tree = json.loads(text)
  if not isinstance(tree, Mapping):
    raise ValueError("a config is a JSON object")
  old = tree.get("network")
  if isinstance(old, Mapping) and "name" in old and "call" not in old:
    raise ValueError("the config is of a run by version 0.1, whose choices were fields and no "
                     "calls: use the version of its manifest.json, or train again")

  def values(node, prefix=""):
    for key, value in node.items():
      if isinstance(value, Mapping) and "call" not in value:
        yield from values(value, f"{prefix}{key}.")
      else:
        yield prefix + key, value

  return override(Config(), dict(values(tree)))


def difference(old: Config, new: Config) -> list[str]:
  """One "field: old → new" for each field, or argument of one function, in which two differ."""
  a, b = dict(flatten(old)), dict(flatten(new))
  functions = {name for name in overrides(old, new) if a[name] != b[name]}
  inside = lambda name: any(name.startswith(f"{function}.") for function in functions)
  return [f"{name}: {calls.one_line(a[name])} → {calls.one_line(b[name])}"
          for name in b if name in a and a[name] != b[name] and not inside(name)]


def overrides(old: Config, new: Config) -> dict[str, Any]:
  """The overrides, as the command line takes them, that make `new` of `old`; calls are whole."""
  changed = {}
  for name, _ in flatten(new):
    call, group = new, name.split(".")
    for i, part in enumerate(group):
      call = getattr(call, part)
      if isinstance(call, Call) or not dataclasses.is_dataclass(call):
        name, group = ".".join(group[:i + 1]), group[:i + 1]
        break
    before = old
    for part in group:
      before = getattr(before, part)
    if call != before:
      changed[name] = ",".join(map(str, call)) if isinstance(call, tuple) else str(call)
  return changed


def _is_call(field: dataclasses.Field) -> bool:
  return field.type is Call or Call in get_args(field.type)


def _is_group(field: dataclasses.Field) -> bool:
  return isinstance(field.type, type) and issubclass(field.type, _Checked)
