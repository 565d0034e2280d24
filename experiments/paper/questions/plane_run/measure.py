"""Trains the network and measures its density."""

from typing import Any

from experiments.metrics import mixture_metrics
from experiments.paper import trained
from experiments.paper.setting import Setting
from langevin_jax import paths


def measure(setting: Setting) -> dict[str, Any]:
  workdir = trained.plane(setting)
  model = trained.model(workdir)
  truth = trained.truth(setting.density.plane, model.run)
  kl, mass = mixture_metrics.model_kl(
      model.run, truth, model.params, paths.ve(), points=60 if setting.fast else 120)
  return {**trained.facts(workdir), "kl": kl, "mass": mass}
