"""What an experiment is: frozen dataclasses, made by a Python file, overridden by flags.

`--config=file.py` names a file with `get_config() -> Config`; `--config.a.b=value` replaces one
field of what it returns. Names and types are checked before anything else happens: `checked` those
of a file, `override` those of flags, sweeps and the config.json of a run, by the same rules.
"""

import dataclasses
import difflib
import json
import math
import pathlib
import runpy
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args, get_origin


@dataclasses.dataclass(frozen=True)
class Data:
  """What to learn; fields as in `data.load`, where "", 0 and () mean "not given".

  name: digits, mixture2d, toy2d, fashion_mnist, arrays or images, in memory; or array_record, the
  shards that `experiments.array_records` writes, read as they are needed. kind: image, vector,
  sequence or array, where the shape of an array file leaves it open. scaling, of standard units:
  one, features (a scale for each) or whiten; if not given, one scale unless features differ in it.
  """

  name: str = "digits"
  path: str = ""
  labels: str = ""
  shape: tuple[int, ...] = ()
  num_classes: int = 0
  size: int = 0
  channels: int = 3
  toy: str = "moons"
  train_size: int = 50_000
  test_size: int = 10_000
  holdout: float = 0.2
  kind: str = ""
  scaling: str = ""


@dataclasses.dataclass(frozen=True)
class Path:
  """The forward process: vp, linear_vp, cosine, ve, geometric_ve, sub_vp or rectified_flow.

  A network does not depend on it. In training it is the clock of `objective.density=uniform_time`;
  in sampling it is the process that is run.
  """

  name: str = "rectified_flow"
  beta_min: float = 0.1
  beta_max: float = 20.0
  sigma_min: float = 0.01
  sigma_max: float = 80.0


@dataclasses.dataclass(frozen=True)
class Network:
  """dit for images, mlp for vectors; `dtype` is that of the computation, parameters are float32.

  Of dit: `unroll` blocks an iteration of the scan over blocks (1 compiles fastest), and `remat`,
  which recomputes a block in the gradient rather than keep its activations.
  """

  name: str = "dit"
  width: int = 128
  depth: int = 4
  heads: int = 4
  patch_size: int = 2
  dtype: str = "float32"
  unroll: int = 8
  remat: bool = False


@dataclasses.dataclass(frozen=True)
class Objective:
  """The loss: density π(ℓ) × weight w(ℓ), computed on the row `prediction` (objectives/).

  prediction: x0, eps, score, velocity, v or edm. density: logit_normal_s, log_normal_rho (both with
  level_mean, level_std), uniform_half_log_snr or uniform_time (of the path). weight: likelihood,
  simple, edm, min_snr, sigmoid, p2 or flow_matching. Noise levels stay in [rho_min, rho_max].
  """

  prediction: str = "velocity"
  density: str = "logit_normal_s"
  level_mean: float = 0.0
  level_std: float = 1.0
  rho_min: float = 0.002
  rho_max: float = 500.0
  weight: str = "flow_matching"
  sigma_data: float = 1.0
  gamma: float = 5.0
  bias: float = 0.0


@dataclasses.dataclass(frozen=True)
class Training:
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
  """

  steps: int = 4000
  batch_size: int = 128
  learning_rate: float = 1e-3
  warmup_steps: int = 200
  decay: str = "cosine"
  weight_decay: float = 0.0
  beta_2: float = 0.99
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


@dataclasses.dataclass(frozen=True)
class Mesh:
  """All devices as data × fsdp × tensor; −1, in one of them, is the rest.

  Batches are split over data and fsdp, parameters, averages and the optimizer's state over fsdp and
  tensor, by the table in `langevin_jax.training.shardings`. What is learned does not depend on it,
  but for rounding: a run may go on, and be sampled, on another mesh.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to draw: a sampler on a grid of noise levels; 0, "" and () mean "the sampler's own".

  sampler: ddim, euler, euler_maruyama, heun, multistep, singlestep, unipc, adams_bashforth,
  annealed_langevin, or adaptive, the ODE to a `tolerance` from rho_max to rho_min. grid: karras,
  uniform_half_log_snr (both from rho_max to rho_min), uniform_time, cosine, shifted (by `shift`),
  levels, which are then given in `levels` (a rise is the forward kernel's), or optimised, for the
  trained model and the sampler. Of any grid, the part from start_level to stop_level is run; 0 is
  all of it. Everything else belongs to some of them and is refused by the others.

  prediction, variable: what multistep and unipc take for a polynomial, and in what; singlestep has
  a prediction too. midpoint: the rule of DPM-Solver-2, 2M and UniPC's B₂. stochasticity is η, and
  largest_budget the most that ∫η² dℓ of a step may be; noise_interval = (lo, hi), in ρ, is where η
  or churn is not 0. corrector: exact, euler, midpoint or baoab, `corrections` times a level, each a
  Langevin time of corrector_budget σ², or score_sde's corrector_snr. moments: the first state has
  the training data's mean and variances. guidance: w of classifier-free guidance, in
  guidance_interval = (lo, hi) of ρ and 1 outside.
  """

  sampler: str = "ddim"
  order: int = 0
  prediction: str = ""
  variable: str = ""
  midpoint: bool = False
  steps: int = 50
  grid: str = "karras"
  rho_min: float = 0.002
  rho_max: float = 80.0
  shift: float = 1.0
  levels: tuple[float, ...] = ()
  start_level: float = 0.0
  stop_level: float = 0.0
  stochasticity: float = 0.0
  largest_budget: float = 0.0
  churn: float = 0.0
  churn_noise: float = 1.0
  noise_interval: tuple[float, ...] = ()
  own_time: bool = False
  brownian: bool = False
  corrector: str = ""
  corrections: int = 0
  corrector_budget: float = 0.0
  corrector_snr: float = 0.0
  corrector_friction: float = 0.0
  moments: bool = False
  guidance: float = 1.0
  guidance_interval: tuple[float, ...] = ()
  guidance_rescale: float = 0.0
  tolerance: float = 0.0
  batch_size: int = 500


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How many samples are judged (0: as many as there are real examples), and with which seed."""

  num_samples: int = 0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
  """One experiment. `seed` sets parameters, batches, noise and samples alike."""

  data: Data = Data()
  path: Path = Path()
  network: Network = Network()
  objective: Objective = Objective()
  training: Training = Training()
  mesh: Mesh = Mesh()
  sampling: Sampling = Sampling()
  evaluation: Evaluation = Evaluation()
  seed: int = 0


# Fields that only some choices read: {field: ((field of the choice, its values), …)}.
_TAKERS = {
    "data.size": (("data.name", ("images",)),),
    "data.channels": (("data.name", ("images",)),),
    "data.toy": (("data.name", ("toy2d",)),),
    "data.train_size": (("data.name", ("mixture2d", "toy2d")),),
    "data.test_size": (("data.name", ("mixture2d", "toy2d")),),
    "data.holdout": (("data.name", ("digits", "arrays", "images")),),
    "path.beta_min": (("path.name", ("linear_vp", "sub_vp")),),
    "path.beta_max": (("path.name", ("linear_vp", "sub_vp")),),
    "path.sigma_min": (("path.name", ("geometric_ve",)),),
    "path.sigma_max": (("path.name", ("ve", "geometric_ve")),),
    "network.heads": (("network.name", ("dit",)),),
    "network.patch_size": (("network.name", ("dit",)),),
    "network.unroll": (("network.name", ("dit",)),),
    "network.remat": (("network.name", ("dit",)),),
    "objective.level_mean": (("objective.density", ("log_normal_rho", "logit_normal_s")),),
    "objective.level_std": (("objective.density", ("log_normal_rho", "logit_normal_s")),),
    "objective.sigma_data": (("objective.weight", ("edm",)), ("objective.prediction", ("edm",))),
    "objective.gamma": (("objective.weight", ("min_snr", "p2")),),
    "objective.bias": (("objective.weight", ("sigmoid",)),),
}


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of every field."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      yield from flatten(value, f"{prefix}{field.name}.")
    else:
      yield prefix + field.name, value


def checked(config: Any, kind: Any = Config, name: str = "") -> Any:
  """`config`, made in Python, with every value of its field's type.

  Lists and arrays become tuples, NumPy's numbers Python's, and 20.0 the integer 20.

  Raises:
    ValueError: any other value, an integer beyond 32 bits or a NaN; names the field.
  """
  if dataclasses.is_dataclass(kind):
    if type(config) is not kind:
      raise ValueError(f"config{name}: expected a {kind.__name__}, got {_shown(config)}")
    return kind(**{field.name: checked(getattr(config, field.name), field.type,
                                       f"{name}.{field.name}")
                   for field in dataclasses.fields(kind)})
  return _typed(config, kind, name.removeprefix("."))


def refuse_unused(config: Config) -> None:
  """Raises ValueError where a field is set that the choices beside it do not read."""
  values, defaults = dict(flatten(config)), dict(flatten(Config()))
  for name in _unused(values):
    if values[name] != defaults[name]:
      choices = " or ".join(f"{choice}={'|'.join(takers)}" for choice, takers in _TAKERS[name])
      now = ", ".join(f"{choice}={values[choice]}" for choice, _ in _TAKERS[name])
      raise ValueError(f"config.{name}={_shown(values[name])} would do nothing with {now}: it "
                       f"belongs to {choices}; leave it at {_shown(defaults[name])}")


def _unused(values: Mapping[str, Any]) -> list[str]:
  return [name for name, takers in _TAKERS.items()
          if not any(values[choice] in names for choice, names in takers)]


def override(config: Config, values: Mapping[str, Any]) -> Config:
  """`config` with the fields of dotted names replaced; strings are read as the field's type.

  Where another choice is named, such as another `path.name`, the fields that it does not read and
  that `values` do not name go back to their defaults.

  Raises:
    ValueError: a name that is no field (with the nearest one), or a value of another type.
  """
  for name, value in values.items():
    config = _replace(config, name.split("."), name, value)
  return _without_unused(config, values)


def _without_unused(config: Config, given: Collection[str]) -> Config:
  defaults = dict(flatten(Config()))
  for name in _unused(dict(flatten(config))):
    if name not in given and any(choice in given for choice, _ in _TAKERS[name]):
      config = _replace(config, name.split("."), name, defaults[name])
  return config


def _replace(node: Any, parts: list[str], name: str, value: Any) -> Any:
  fields = {field.name: field for field in dataclasses.fields(node)}
  head, rest = parts[0], parts[1:]
  if head not in fields:
    near = difflib.get_close_matches(head, fields, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"config.{name}: no field {head!r}{hint}; there are {', '.join(fields)}")
  old = getattr(node, head)
  if dataclasses.is_dataclass(old) != bool(rest):
    kind = "a group of fields: name one of them" if not rest else "a single field"
    raise ValueError(f"config.{name}: {head!r} is {kind}")
  new = _replace(old, rest, name, value) if rest else _typed(
      _read(value, fields[head].type), fields[head].type, name)
  return dataclasses.replace(node, **{head: new})


def _read(value: Any, kind: Any) -> Any:
  """A string as the command line means it for a field of type `kind`; itself if it is none."""
  if get_origin(kind) is tuple:
    if isinstance(value, str):
      value = [part for part in value.strip("()[] ").split(",") if part.strip()]
    if isinstance(value, (int, float)):
      value = [value]
    return tuple(_read(part, get_args(kind)[0]) for part in value) if isinstance(
        value, (list, tuple)) else value
  if not isinstance(value, str):
    return value
  if kind is bool:
    return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
  if kind in (int, float):
    try:
      return kind(value)
    except ValueError:
      return value
  return value


def _typed(value: Any, kind: Any, name: str, wanted: str = "") -> Any:
  """`value` as an int, float, bool, str or tuple of one of them, which `wanted` says in words."""
  if hasattr(value, "tolist"):
    value = value.tolist()  # of NumPy or jax
  if get_origin(kind) is tuple:
    part_kind = get_args(kind)[0]
    wanted = f"{part_kind.__name__}s separated by commas"
    if isinstance(value, (list, tuple)):
      return tuple(_typed(part, part_kind, name, wanted) for part in value)
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if kind is int and number and value == value // 1:
    if not -2**31 <= value < 2**31:
      raise ValueError(f"config.{name}: must lie in [−2³¹, 2³¹), got {_shown(value)}")
    return int(value)
  if kind is float and number:
    if value != value:
      raise ValueError(f"config.{name} must be finite, got nan")
    try:
      return float(value)
    except OverflowError:
      raise ValueError(f"config.{name}: {_shown(value)} is too large for a float") from None
  if kind is bool and isinstance(value, bool):
    return value
  if kind is str and isinstance(value, str):
    return "".join(value)
  raise ValueError(f"config.{name}: expected {wanted or kind.__name__}, got {_shown(value)}")


def _shown(value: Any) -> str:
  """A value in a message: one line, and not long."""
  try:
    text = " ".join(repr(value).split())
  except Exception:  # whatever the user's own object raises; Python's of an integer too long
    return f"a value of type {type(value).__name__}"
  return text if len(text) <= 80 else f"{text[:80]}…"


def load(file: str) -> Config:
  """The `get_config()` of a Python file, `checked`.

  Raises:
    ValueError: no such file, or one that makes no Config.
  """
  if not pathlib.Path(file).is_file():
    raise ValueError(f"config: no file {file!r}; shipped ones are in experiments/configs/")
  try:
    config = runpy.run_path(file).get("get_config", lambda: None)()
  except (Exception, SystemExit) as error:  # whatever the user's own Python raises
    raise ValueError(f"config: {file}: {type(error).__name__}: {error}") from error
  if not isinstance(config, Config):
    raise ValueError(f"config: {file!r} must define get_config() returning a config.Config")
  return checked(config)


def to_json(config: Config) -> str:
  """The config as JSON; infinity, which JSON lacks, is the string that `override` reads as it."""
  def plain(value):
    if isinstance(value, dict):
      return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
      return [plain(part) for part in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value

  return json.dumps(plain(dataclasses.asdict(config)), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Config:
  """The config that `to_json` wrote.

  Raises:
    ValueError: not such a text, or one with fields that this version does not have.
  """
  def walk(tree, prefix=""):
    for key, value in tree.items():
      if isinstance(value, dict):
        yield from walk(value, f"{prefix}{key}.")
      else:
        yield prefix + key, value

  values = dict(walk(json.loads(text)))
  if values.get("data.name") == "arrays":
    # Of runs from before the fields: their models know one scale, and an MLP took vectors alone.
    kind = "vector" if values.get("network.name", "mlp") == "mlp" else "image"
    values = {"data.scaling": "one", "data.kind": kind} | values
  return override(Config(), values)


def difference(old: Config, new: Config) -> list[str]:
  """One "field: old → new" for each field in which two configs differ, of those that are read."""
  unread = set(_unused(dict(flatten(old)))) & set(_unused(dict(flatten(new))))
  return [f"{name}: {a!r} → {b!r}" for (name, a), (_, b) in
          zip(flatten(old), flatten(new), strict=True) if a != b and name not in unread]
