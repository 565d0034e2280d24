"""Flags of `sample` and `evaluate`: which model, along which path and by which method, is run.

Every field of the config's `sampling` is a flag; what is not given is as the run's config says.
"""

import dataclasses
import pathlib

from absl import flags

from experiments import config as config_lib
from experiments.config import cli
from experiments.run import averages
from experiments.sampling import samplers_from_config

_PATH = flags.DEFINE_string("path", "", "Path to sample along; the run's own if not given.")
_EMA = flags.DEFINE_string(
    "ema", "", "Which average of the parameters: half_life=STEPS or relative_std=WIDTH (of the "
    "training), as kept by the run or else made of its snapshots, or none; the run's first "
    "half-life if not given.")
_MESH = flags.DEFINE_string(
    "mesh", "", "data,fsdp,tensor over the devices that there are, such as -1,4,1 for a model that "
    "one of them cannot hold; all as data if not given, however the run was trained.")
_HELP = {
    "sampler": "ddim, euler, euler_maruyama, heun, multistep, singlestep, unipc, adams_bashforth, "
               "annealed_langevin or adaptive.",
    "order": "Of multistep, singlestep, unipc and adams_bashforth: 1, 2 or 3, of multistep and "
             "adams_bashforth also 4; 2 if not given.",
    "prediction": "Of multistep, unipc and singlestep, what is a polynomial: x0 (if not given), "
                  "eps or velocity.",
    "variable": "Of multistep and unipc, in what: half_log_snr (if not given), alpha or angle.",
    "midpoint": "Of multistep, unipc and singlestep: the midpoint rule, as in DPM-Solver-2, "
                "DPM-Solver++(2M) and UniPC's B₂ as published.",
    "steps": "Number of steps.",
    "grid": "karras, uniform_half_log_snr, uniform_time, cosine, shifted, levels, or optimised for "
            "the model and sampler (once; kept in the workdir's grids.json).",
    "rho_min": "Last positive noise-to-signal ratio ρ, of karras, uniform_half_log_snr and "
               "adaptive; and of the likelihood.",
    "rho_max": "First ρ, of karras, uniform_half_log_snr, optimised and adaptive; and of the "
               "likelihood.",
    "shift": "Shift of the grid `shifted`.",
    "levels": "A grid of your own: ρ such as 80,20,5,1,.2,.02; it ends clean. Where the "
              "numbers rise, noise is added.",
    "start_level": "First noise-to-signal ratio ρ that is run, with --start; the grid's own if not "
                   "given.",
    "stop_level": "Last ρ: what is written then holds that much noise, α x₀ + σ ε on the path; "
                  "clean if not given.",
    "stochasticity": "η: 0 is the ODE, 1 the SDE, of " + ", ".join(
        samplers_from_config.TAKERS["stochasticity"]) + ".",
    "largest_budget": "Of multistep, unipc and singlestep with noise: ∫η² dℓ of a step is at most "
                      "this; 0.5 keeps the law at few steps.",
    "churn": "EDM's churn, of heun.",
    "churn_noise": "EDM's S_noise: the churn's noise times this.",
    "noise_interval": "lo,hi in ρ: η or churn is 0 outside.",
    "own_time": "heun in the path's own time in the place of ρ.",
    "brownian": "Noise of one Brownian path, the same for every number of steps.",
    "corrector": "exact, euler, midpoint or baoab: Langevin steps at every level of any sampler; "
                 "of annealed_langevin, euler if not given.",
    "corrections": "Langevin steps a level; 1 if not given, of annealed_langevin 100.",
    "corrector_budget": "Langevin time Λ of each, in units of σ²; 0.1 (exact, euler) or 0.2 "
                        "(midpoint, baoab) if not given.",
    "corrector_snr": "score_sde's rule for it, Λ = 2 (r ‖ξ‖/‖σs‖)², of exact and euler: r.",
    "corrector_friction": "Friction of baoab in units of 1/σ; 1 if not given.",
    "moments": "Start from the mean and variances of the training data at the first level.",
    "guidance": "w of classifier-free guidance: 1 is none, 0 no label.",
    "guidance_interval": "lo,hi in ρ: no guidance, at one call, outside.",
    "guidance_rescale": "Of guidance, 0 to 1: the spread of an example is kept.",
    "tolerance": "Of adaptive, the ODE by diffrax: error of each entry; 1e-4 if not given.",
    "batch_size": "How many samples are drawn at once.",
}


def _define():
  kinds = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
  return {field.name: kinds.get(field.type, flags.DEFINE_string)(field.name, None,
                                                                 _HELP[field.name])
          for field in dataclasses.fields(config_lib.Sampling)}


_FIELDS = _define()


def config(trained: config_lib.Config) -> config_lib.Config:
  """The run's config with the path and the sampling that the flags ask for.

  Where a flag names another sampler, grid or corrector, options of the config's own that it does
  not have are left out; one that a flag gives is refused where it would do nothing.

  Raises:
    ValueError: such a flag, or a value of another type.
  """
  cli.refuse_config()
  given = {name: flag.value for name, flag in _FIELDS.items() if flag.value is not None}
  if "levels" in given:
    if "steps" in given:
      raise ValueError("--steps would do nothing beside --levels, which are as many as they are")
    given.setdefault("grid", "levels")
  if given.get("sampler") == "adaptive":
    for name in ("steps", "grid", "levels"):
      if name in given:
        raise ValueError(f"--{name} would do nothing: the adaptive sampler chooses its own steps, "
                         "by --tolerance, between --rho_max and --rho_min")
  config = config_lib.override(trained, {
      **{f"sampling.{name}": value for name, value in given.items()},
      "path.name": _PATH.value or trained.path.name})
  sampling = config.sampling
  for name, takers in samplers_from_config.GRIDS.items():
    if name in given and sampling.grid not in takers:
      samplers_from_config.belongs_to(name, "grid", takers, sampling.grid)
  annealed = "annealed_langevin" in (trained.sampling.sampler, sampling.sampler)
  dropped = _replaced(sampling, given, annealed and "sampler" in given) - set(given)
  sampling = dataclasses.replace(sampling, **{
      field.name: field.default for field in dataclasses.fields(sampling)
      if field.name in dropped})
  return dataclasses.replace(config, sampling=sampling)


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


def _replaced(sampling: config_lib.Sampling, given: dict, annealed: bool) -> set[str]:
  """Options of what the flags have put something else in the place of."""
  names = set()
  if "sampler" in given:
    names |= {name for name, takers in samplers_from_config.TAKERS.items()
              if sampling.sampler not in takers}
  if "grid" in given:
    names |= {name for name in ("shift", "levels")
              if sampling.grid not in samplers_from_config.GRIDS[name]}
  if annealed:
    names |= {"corrector", *samplers_from_config.CORRECTOR}
  elif "corrector" in given:
    names |= set(samplers_from_config.CORRECTOR)
  noise = {name: getattr(sampling, name) for name in ("stochasticity", "churn")}
  if given.keys() & {"sampler", *noise} and not any(
      value for name, value in noise.items() if name not in names):
    names |= {"noise_interval", "churn_noise", "brownian"}
  if given.get("guidance") == 1.0:
    names |= {"guidance_interval", "guidance_rescale"}
  return names
