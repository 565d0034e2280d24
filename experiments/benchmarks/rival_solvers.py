"""Solvers of k-diffusion, diffusers and azula as functions of a model and a grid.

An adapter converts the state z = x₀ + ρ ε, the levels ρ₀ > … > ρ_n = 0 and the model
D(z, ρ) = E[x₀ | z] to the scale, prediction and time of a library, and calls the library. As a
program this file is the worker of `rivals`; the two exchange pickles:

  python -P experiments/benchmarks/rival_solvers.py

It imports numpy and the libraries, and neither JAX nor this package.
"""

import ast
import contextlib
import importlib
import importlib.util
import os
import pathlib
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LIBRARIES = {"k-diffusion": "k_diffusion", "diffusers": "diffusers", "azula": "azula",
             "hackable-diffusion": "hackable_diffusion"}


class Rival(NamedTuple):
  """A solver of another library.

  run: (denoise, z, rho, seed) → x₀, torch tensors of float64.
  calls: number of network calls for n steps.
  order: order of convergence, measured by tests/experiments/rivals_test.py; at most 2 for a
    multistep method that starts with a step of first order. For `random` solvers it is the order
    stated by the authors.
  random: whether the solver draws noise.
  grid: whether the solver takes a grid. Otherwise it uses the first and the last positive level
    and places its calls between them.
  closes: whether the last step of the solver goes to ρ = 0. Otherwise its steps end at ρ_{n−1} and
    the adapter appends z ← D(z, ρ_{n−1}), which equals the last step of the other solvers.
  """

  library: str
  run: Callable[..., Any]
  calls: Callable[[int], int]
  order: int
  random: bool = False
  grid: bool = True
  closes: bool = True


NONE: Mapping[str, Any] = {}
EACH = lambda n: n
TWO = lambda n: 2 * n - 1
SAMPLE, EPS, V, EDM = "sample", "epsilon", "v_prediction", "edm"
_NOTES: list[str] = []


def _k(solver: str, order: int, calls: Callable = EACH, *, noisy: bool = False,
       options: Mapping[str, Any] = NONE) -> Rival:
  """sample_{solver} of k-diffusion. noisy: it takes a noise source, which eta = 0 ignores."""
  def run(denoise, z, rho, seed):
    sampling = _sampling()
    import torch

    torch.manual_seed(seed)
    # The default source is a Brownian tree of torchsde; this is the other one.
    source = {"noise_sampler": sampling.default_noise_sampler(z)} if noisy else {}
    model = lambda x, sigma: denoise(x, float(sigma[0]))
    sample = getattr(sampling, f"sample_{solver}")
    return sample(model, z, rho, disable=True, **options, **source)

  return Rival("k-diffusion", run, calls, order, noisy and options.get("eta") != 0.0)


def _dpm_fast(denoise, z, rho, seed):
  model = lambda x, sigma: denoise(x, float(sigma[0]))
  low, high, n = float(rho[-2]), float(rho[0]), len(rho) - 2
  return denoise(_sampling().sample_dpm_fast(model, z, low, high, n, disable=True), low)


def _sampling():
  """The module `sampling` of k-diffusion.

  Where the package cannot be imported, its files utils.py and sampling.py are loaded without the
  imports of packages that are not installed. The solvers used here do not need those.
  """
  if "k_diffusion.sampling" in sys.modules:
    return sys.modules["k_diffusion.sampling"]
  with contextlib.suppress(ImportError):
    return importlib.import_module("k_diffusion.sampling")
  package = importlib.util.find_spec("k_diffusion")
  sys.modules["k_diffusion"] = importlib.util.module_from_spec(package)
  for name in ("utils", "sampling"):
    file = pathlib.Path(package.submodule_search_locations[0]) / f"{name}.py"
    tree, kept = ast.parse(file.read_bytes()), []
    for line in tree.body:
      names = ([line.module] if isinstance(line, ast.ImportFrom) and not line.level else
               [alias.name for alias in line.names] if isinstance(line, ast.Import) else [])
      absent = [each for each in names if not importlib.util.find_spec(each.partition(".")[0])]
      _NOTES.extend(f"k-diffusion: {name}.py alone, without {each}" for each in absent)
      kept += [] if absent else [line]
    tree.body = kept
    module = sys.modules[f"k_diffusion.{name}"] = types.ModuleType(f"k_diffusion.{name}")
    module.__package__ = "k_diffusion"
    exec(compile(tree, str(file), "exec"), vars(module))
  return sys.modules["k_diffusion.sampling"]


def _d(
    scheduler: str, row: str, order: int, calls: Callable = EACH, *, ve: bool = False,
    closes: bool = True, place: Callable | None = None, options: Mapping[str, Any] = NONE,
) -> Rival:
  """A scheduler of diffusers, with the levels of the grid in place of its own.

  row: the prediction that the scheduler takes. ve: whether its states are z; otherwise they are at
  unit scale. place: (scheduler, rho) → the levels in the order of the scheduler's time steps; it
  stores them in the scheduler.
  """
  def run(denoise, z, rho, seed):
    import torch

    own = rho if closes else rho[:-1]
    n = len(own) - 1
    # Schedulers with integer times get n times, one for each level.
    config = {"num_train_timesteps": n} if place in (_cumulative, _angles) else {}
    config |= {} if place is _angles else {"prediction_type": EPS if row == EDM else row}
    stepper = getattr(importlib.import_module("diffusers"), scheduler)(**config, **options)
    stepper.set_timesteps(n)
    levels = (place or _sigmas)(stepper, own)
    alpha = lambda level: 1.0 if ve else 1.0 / torch.sqrt(1.0 + level**2)
    x = alpha(own[0]) * z
    for t, level in zip(stepper.timesteps, levels, strict=False):
      z = x / alpha(level)
      value = _row(row, denoise(z, float(level)), z, level)
      stepper.scale_model_input(x, t)  # some schedulers require the call; its result is not used
      x = stepper.step(value, t, x).prev_sample.to(torch.float64)
    return x / alpha(own[-1]) if closes else denoise(x / alpha(own[-1]), float(own[-1]))

  return Rival("diffusers", run, calls, order, closes=closes)


def _row(row: str, denoised, z, rho):
  """A prediction at unit scale, x = z/√(1 + ρ²), from a denoised estimate."""
  eps = (z - denoised) / rho
  scale = (1.0 + rho**2) ** 0.5
  # EDM's F at σ_d = 1 is −v: D = z/(1 + ρ²) + ρ/√(1 + ρ²) F.
  return {SAMPLE: lambda: denoised, EPS: lambda: eps, V: lambda: (eps - rho * denoised) / scale,
          EDM: lambda: (rho * denoised - eps) / scale}[row]()


def _sigmas(stepper, rho):
  import torch

  stepper.sigmas = rho
  stepper.timesteps = torch.arange(len(rho) - 1, dtype=torch.float64)
  return rho


def _twice(stepper, rho):
  """Stores inner levels twice, as for Heun's method."""
  import torch

  return _sigmas(stepper, torch.cat([rho[:1], rho[1:-1].repeat_interleave(2), rho[-1:]]))


def _cumulative(stepper, rho):
  """Stores α² by integer time: level i has the time n − 1 − i."""
  stepper.alphas_cumprod = (1.0 / (1.0 + rho[:-1] ** 2)).flip(0)
  return rho[len(rho) - 2 - stepper.timesteps]


def _angles(stepper, rho):
  """Stores σ as betas and α as alphas, at unit scale (iPNDM)."""
  _sigmas(stepper, rho)
  stepper.alphas = (1.0 + rho**2) ** -0.5
  stepper.betas = rho * stepper.alphas
  return rho


def _a(sampler: str, order: int, calls: Callable = EACH, *, closes: bool = False,
       random: bool = False, options: Mapping[str, Any] = NONE) -> Rival:
  """A sampler of azula, with a schedule that has the levels of the grid."""
  def run(denoise, z, rho, seed):
    import torch

    own = rho if closes else rho[:-1]
    n = len(own) - 1

    class Exact:
      def schedule(self, t):  # t runs from 1 to 0 in n equal steps
        level = own[torch.round((1.0 - t) * n).long()]
        return torch.ones_like(level), level

      def __call__(self, x, t):
        return Mean(denoise(x, float(self.schedule(t)[1])))

    torch.manual_seed(seed)
    make = getattr(importlib.import_module("azula.sample"), sampler)
    x = make(Exact(), steps=n, silent=True, dtype=torch.float64, **options)(z)
    return x if closes else denoise(x, float(own[-1]))

  return Rival("azula", run, calls, order, random, closes=closes)


class Mean(NamedTuple):
  """A posterior of azula; its samplers read the mean."""

  mean: Any


_DPM = "DPMSolverMultistepScheduler"
RIVALS: dict[str, Rival] = {
    "k-diffusion euler": _k("euler", 1),
    "k-diffusion heun": _k("heun", 2, TWO),
    "k-diffusion dpm_2": _k("dpm_2", 2, TWO),
    "k-diffusion dpmpp_2s": _k("dpmpp_2s_ancestral", 2, TWO, noisy=True, options={"eta": 0.0}),
    "k-diffusion dpmpp_2m": _k("dpmpp_2m", 2),
    "k-diffusion dpmpp_2m heun": _k(
        "dpmpp_2m_sde", 2, noisy=True, options={"eta": 0.0, "solver_type": "heun"}),
    "k-diffusion dpmpp_3m": _k("dpmpp_3m_sde", 2, noisy=True, options={"eta": 0.0}),
    "k-diffusion lms": _k("lms", 2),
    "k-diffusion dpm_fast": Rival(
        "k-diffusion", _dpm_fast, EACH, 2, grid=False, closes=False),
    "k-diffusion euler_ancestral": _k("euler_ancestral", 1, noisy=True),
    "k-diffusion dpmpp_sde": _k("dpmpp_sde", 1, TWO, noisy=True),
    "k-diffusion dpmpp_2m_sde": _k("dpmpp_2m_sde", 2, noisy=True),
    "k-diffusion dpmpp_3m_sde": _k("dpmpp_3m_sde", 2, noisy=True),
    "diffusers ddim": _d(
        "DDIMScheduler", SAMPLE, 1, place=_cumulative, options={"clip_sample": False}),
    "diffusers euler": _d("EulerDiscreteScheduler", SAMPLE, 1, ve=True),
    "diffusers edm_euler": _d(
        "EDMEulerScheduler", EDM, 1, ve=True, options={"sigma_data": 1.0}),
    "diffusers heun": _d("HeunDiscreteScheduler", SAMPLE, 2, TWO, ve=True, place=_twice),
    "diffusers dpmpp_2m": _d(_DPM, SAMPLE, 2),
    "diffusers dpmpp_2m heun": _d(_DPM, SAMPLE, 2, options={"solver_type": "heun"}),
    "diffusers dpmpp_3m": _d(_DPM, SAMPLE, 2, options={"solver_order": 3}),
    "diffusers dpmpp_2s": _d(
        "DPMSolverSinglestepScheduler", SAMPLE, 2, options={"lower_order_final": True}),
    "diffusers dpmpp_3s": _d(
        "DPMSolverSinglestepScheduler", SAMPLE, 3,
        options={"solver_order": 3, "lower_order_final": True}),
    "diffusers unipc_2": _d("UniPCMultistepScheduler", SAMPLE, 3),
    "diffusers unipc_3": _d("UniPCMultistepScheduler", SAMPLE, 3, options={"solver_order": 3}),
    "diffusers deis_2": _d("DEISMultistepScheduler", SAMPLE, 2, closes=False),
    "diffusers deis_3": _d(
        "DEISMultistepScheduler", SAMPLE, 2, closes=False, options={"solver_order": 3}),
    "diffusers edm_dpmpp_2m": _d(
        "EDMDPMSolverMultistepScheduler", EDM, 2, ve=True, options={"sigma_data": 1.0}),
    "diffusers pndm": _d(
        "PNDMScheduler", EPS, 2, lambda n: n + 1, place=_cumulative,
        options={"skip_prk_steps": True, "set_alpha_to_one": True}),
    "diffusers ipndm": _d("IPNDMScheduler", V, 2, place=_angles),
    "azula ddim": _a("DDIMSampler", 1, closes=True),
    "azula heun": _a("HeunSampler", 2, TWO),
    "azula zab_2": _a("zABSampler", 2),
    "azula zab_3": _a("zABSampler", 2, options={"order": 3}),
    "azula vab_2": _a("vABSampler", 2),
    "azula zeab_2": _a("zEABSampler", 2),
    "azula xeab_2": _a("xEABSampler", 2),
    "azula xeab_3": _a("xEABSampler", 2, options={"order": 3}),
    # In azula 0.11.1 the last line uses σ of the wrong time, which reduces the order to 1.
    "azula reab_2": _a("REABSampler", 1),
    "azula ddpm": _a("DDPMSampler", 1, random=True),
    "azula pc": _a("PCSampler", 1, TWO, random=True),
}


def _absent() -> dict[str, str]:
  """Library → reason, for libraries that are not available."""
  found = {}
  for library, module in LIBRARIES.items():
    if library == "hackable-diffusion":
      found[library] = f"{library}: no adapter has been checked on it (it needs Python 3.12)"
    elif not importlib.util.find_spec(module):
      found[library] = f"{library}: not installed (make bench installs it)"
    else:
      try:
        importlib.import_module("torch")
        _sampling() if library == "k-diffusion" else importlib.import_module(module)
      except ImportError as error:
        found[library] = f"{library}: {error}"
  return found


def main() -> None:
  # stdout carries the answers only: output of the libraries goes to stderr.
  out = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)

  def send(message):
    pickle.dump(message, out)
    out.flush()

  send((_absent(), tuple(_NOTES)))
  while True:
    try:
      name, z, rho, seed = pickle.load(sys.stdin.buffer)
    except EOFError:
      return
    import torch

    torch.set_num_threads(1)

    def denoise(z, level):
      send(("denoise", (z.numpy(), level)))
      return torch.from_numpy(pickle.load(sys.stdin.buffer))

    try:
      with torch.no_grad():
        x_0 = RIVALS[name].run(denoise, torch.from_numpy(z), torch.from_numpy(rho), seed)
      send(("done", x_0.to(torch.float64).numpy()))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
      send(("failed", f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
  main()
