"""What an experiment is: frozen dataclasses, made by a Python file, overridden by flags.

`--config=file.py` names a file with `get_config() -> Config`; `--config.a.b=value` replaces one
field of what it returns. Names and types are checked before anything else happens. The same
`override` serves flags, sweeps and the config.json of a run.
"""

import dataclasses
import difflib
import json
import pathlib
import runpy
from collections.abc import Iterator, Mapping
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
  `accumulation` parts of the batch, one after another. `steps_per_dispatch` steps run in one
  compiled scan, which also spares a CPU the re-allocation of its buffers, and no more than
  `dispatches_in_flight` are sent ahead of what is read. `cpu_devices` makes as many virtual devices
  of a CPU; of accelerators all are used.

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
  levels, which are then given, falling, in `levels`, or optimised, for the trained model and the
  sampler. Everything else belongs to some of them and is refused by the others.

  prediction, variable: what multistep and unipc take for a polynomial, and in what. stochasticity
  is η; noise_interval = (lo, hi), in ρ, is where η or churn is not 0. corrector: exact, euler,
  midpoint or baoab, `corrections` times a level, each a Langevin time of corrector_budget σ², or
  score_sde's corrector_snr. moments: the first state has the training data's mean and variances.
  guidance: w of classifier-free guidance, in guidance_interval = (lo, hi) of ρ and 1 outside.
  """

  sampler: str = "ddim"
  order: int = 0
  prediction: str = ""
  variable: str = ""
  steps: int = 50
  grid: str = "karras"
  rho_min: float = 0.002
  rho_max: float = 80.0
  shift: float = 1.0
  levels: tuple[float, ...] = ()
  stochasticity: float = 0.0
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


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of every field."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      yield from flatten(value, f"{prefix}{field.name}.")
    else:
      yield prefix + field.name, value


def override(config: Config, values: Mapping[str, Any]) -> Config:
  """`config` with the fields of dotted names replaced; strings are read as the field's type.

  Raises:
    ValueError: a name that is no field (with the nearest one), or a value of another type.
  """
  for name, value in values.items():
    config = _replace(config, name.split("."), name, value)
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
  new = _replace(old, rest, name, value) if rest else _parse(value, fields[head].type, name)
  return dataclasses.replace(node, **{head: new})


def _parse(value: Any, kind: Any, name: str) -> Any:
  """`value` as an int, float, bool, str or tuple of one of them."""
  try:
    if get_origin(kind) is tuple:
      if isinstance(value, str):
        value = [part for part in value.strip("()[] ").split(",") if part.strip()]
      value = value if isinstance(value, (list, tuple)) else [value]
      return tuple(_parse(part, get_args(kind)[0], name) for part in value)
    if kind is bool and isinstance(value, str):
      return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    if kind is int and isinstance(value, str):
      return int(value)
    if kind is float and not isinstance(value, bool):
      return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
      return value
  except (ValueError, KeyError, TypeError):
    pass
  wanted = kind.__name__ if get_origin(kind) is None else (
      f"{get_args(kind)[0].__name__}s separated by commas")
  raise ValueError(f"config.{name}: expected {wanted}, got {value!r}")


def load(file: str) -> Config:
  """The `get_config()` of a Python file.

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
  return config


def to_json(config: Config) -> str:
  return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


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
    # Of runs from before the field: their models know one scale.
    values = {"data.scaling": "one"} | values
  return override(Config(), values)


def difference(old: Config, new: Config) -> list[str]:
  """One "field: old → new" for each field in which two configs differ."""
  return [f"{name}: {a!r} → {b!r}" for (name, a), (_, b) in
          zip(flatten(old), flatten(new), strict=True) if a != b]
