"""Flags of `sample` and `evaluate`: along which path, by which method, the trained model is run."""

import dataclasses

from absl import flags

from experiments import cli
from experiments import config as config_lib

_PATH = flags.DEFINE_string("path", "", "Path to sample along; the run's own if not given.")
_SAMPLER = flags.DEFINE_string("sampler", "", "ddim, euler, euler_maruyama or heun.")
_STEPS = flags.DEFINE_integer("steps", None, "Number of steps.")
_STOCHASTICITY = flags.DEFINE_float("stochasticity", None, "η: 0 is the ODE, 1 the SDE.")
_CHURN = flags.DEFINE_float("churn", None, "EDM's churn, of heun.")
_GRID = flags.DEFINE_string(
    "grid", "", "karras, uniform_half_log_snr, uniform_time, cosine or shifted.")
_SHIFT = flags.DEFINE_float("shift", None, "Shift of the grid `shifted`.")


def config(trained: config_lib.Config) -> config_lib.Config:
  """The run's config with the path and the sampling that the flags ask for."""
  cli.refuse_config()
  fields = {"sampler": _SAMPLER.value or None, "steps": _STEPS.value, "churn": _CHURN.value,
            "stochasticity": _STOCHASTICITY.value, "grid": _GRID.value or None,
            "shift": _SHIFT.value}
  given = {name: value for name, value in fields.items() if value is not None}
  return dataclasses.replace(
      trained, sampling=dataclasses.replace(trained.sampling, **given),
      path=dataclasses.replace(trained.path, name=_PATH.value or trained.path.name))
