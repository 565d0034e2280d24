"""Flags of `sample` and `evaluate`: which model, along which path and by which method, is run.

What is not given is as the run's config says.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from absl import flags

from experiments import config as config_lib
from experiments.config import build, cli
from experiments.run import averages
from experiments.sampling import samplers_from_config

_PATH = flags.DEFINE_string(
    "path", "", "Path to sample along, such as vp or linear_vp(beta_max=15); the run's own if not "
    "given.")
_EMA = flags.DEFINE_string(
    "ema", "", "Which average of the parameters: half_life=STEPS or relative_std=WIDTH (of the "
    "training), as kept by the run or else made of its snapshots, or none; the run's first "
    "half-life if not given.")
_MESH = flags.DEFINE_string(
    "mesh", "", "data,fsdp,tensor over the devices that there are, such as -1,4,1 for a model that "
    "one of them cannot hold; all as data if not given, however the run was trained.")
_SAMPLER = flags.DEFINE_string(
    "sampler", None, "A call such as multistep(order=3), or the name alone; --sampler.order=3 sets "
    "one argument. --help lists the calls.")
_GRID = flags.DEFINE_string(
    "grid", None, "Noise levels: a call such as karras(40, rho_max=20), explicit((80, 20, 5, 1)), "
    "or optimised(20) for the model and the sampler (once; kept in the workdir's grids.json).")
_GUIDANCE = flags.DEFINE_string(
    "guidance", None, "Weight of classifier-free guidance (1 is none), or the call "
    "classifier_free(2, interval=(0.2, 5)).")
_STEPS = flags.DEFINE_integer("steps", None, "Number of steps: --grid.n.")
_STOCHASTICITY = flags.DEFINE_float(
    "stochasticity", None, "η, 0 for the ODE, 1 for the reverse SDE: --sampler.stochasticity.")
_SHORT = {"steps": "sampling.grid.n", "stochasticity": "sampling.sampler.stochasticity"}
_FIELDS = {
    "start_level": flags.DEFINE_float(
        "start_level", None, "ρ at which sampling starts, of `sample` from examples of --start."),
    "stop_level": flags.DEFINE_float(
        "stop_level", None, "ρ at which sampling stops; 0 is clean."),
    "moments": flags.DEFINE_bool(
        "moments", None, "Start from the mean and variances of the training data at the first "
        "level."),
    "brownian": flags.DEFINE_bool(
        "brownian", None, "Noise of a sample is one Brownian path, the same on every grid."),
    "clip": flags.DEFINE_bool(
        "clip", None, "Limit every prediction of x₀ to the range of the images' values."),
    "batch_size": flags.DEFINE_integer("batch_size", None, "How many samples are drawn at once."),
}


def config(trained: config_lib.Config) -> config_lib.Config:
  """The run's config with the path and the sampling that the flags ask for.

  Raises:
    ValueError: an unknown call or argument, a value of another type, or a flag that would do
      nothing.
  """
  cli.refuse_config()
  given = _given()
  found = config_lib.override(trained, given)
  build.check_noise(trained.path, found.path)
  for flag, head, argument in (
      ("steps", "grid", "n"), ("stochasticity", "sampler", "stochasticity")):
    if flags.FLAGS[flag].value is not None and argument in cli.arguments(head):
      raise ValueError(f"--{flag} and --{head}.{argument} are one number: give one of them")
  if samplers_from_config.is_adaptive(found.sampling) and any(
      name.startswith("sampling.grid") for name in given):
    raise ValueError("--grid and --steps would do nothing: the adaptive sampler chooses its own "
                     "steps, by --sampler.tolerance")
  sampler = found.sampling.sampler
  if trained.objective.flow_map is not None and not samplers_from_config.is_flow_map(sampler):
    print(f"{sampler.name} uses the diagonal ℓ′ = ℓ of the flow map; its own steps are those of "
          "--sampler=flow_map", flush=True)
  return found


@contextlib.contextmanager
def named_in_errors() -> Iterator[None]:
  """Has a ValueError name the flag that was given where it names the config's field."""
  try:
    yield
  except ValueError as error:
    text = str(error).removeprefix("config.sampling: ")
    for field in sorted(_given(), key=len, reverse=True):
      name = {value: key for key, value in _SHORT.items()}.get(field, field)
      flag = "--" + name.removeprefix("sampling.")
      # Messages may leave out the "config." of a field that has a dot.
      group = r"(config\.)?" if "." in field else r"config\."
      text = re.sub(rf"(?<![\w.-]){group}{re.escape(field)}(?!\w)", flag, text)
    raise ValueError(text) from error


def _given() -> dict[str, Any]:
  """What the flags say, by the config's field."""
  values = {"path": _PATH.value or None, "sampling.sampler": _SAMPLER.value,
            "sampling.grid": _GRID.value, "sampling.guidance": _GUIDANCE.value,
            _SHORT["steps"]: _STEPS.value, _SHORT["stochasticity"]: _STOCHASTICITY.value,
            **{f"sampling.{name}": flag.value for name, flag in _FIELDS.items()}}
  for head in ("path", "sampler", "grid", "guidance"):
    group = head if head == "path" else f"sampling.{head}"
    values |= {f"{group}.{rest}": value for rest, value in cli.arguments(head).items()}
  return {name: value for name, value in values.items() if value is not None}


def ema(trained: config_lib.Config, workdir: pathlib.Path) -> averages.Choice:
  """The average of the parameters that the flags ask for; raises ValueError where there is none."""
  return averages.named(_EMA.value, trained.training, workdir)


def on_these_devices(trained: config_lib.Config) -> config_lib.Config:
  """The run's config with the mesh of `--mesh`; raises ValueError where that is none."""
  sizes = (_MESH.value or "-1,1,1").split(",")
  if len(sizes) != 3:
    raise ValueError(f"--mesh must be data,fsdp,tensor, such as -1,4,1; got {_MESH.value!r}")
  return config_lib.override(trained, dict(
      zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), sizes, strict=True)))
