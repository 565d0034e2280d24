"""The reverse jump process of `config.sampling` for tokens, which `discrete.samplers` runs.

`samplers_from_config` and `drawing` turn here where the path is one of tokens.
"""

from collections.abc import Callable
from typing import Any

import jax

from experiments import config as config_lib
from experiments.config import build, calls
from langevin_jax import discrete

_METHODS = "step, ancestral, tau_leaping, unmask and corrected"
_NOT_FOR_TOKENS = ("start_level", "stop_level", "moments", "brownian", "clip")


def method(config: config_lib.Sampling) -> discrete.samplers.Method:
  """The method of `config.sampling`. Raises ValueError for one that is not for tokens."""
  found = calls.build(config.sampler, "sampler", "config.sampling.sampler")
  if not isinstance(found, discrete.samplers.Method):
    raise ValueError(f"config.sampling.sampler={config.sampler.name} is for numbers; of tokens "
                     f"there are {_METHODS}")
  return found


def grid(config: config_lib.Sampling) -> Any:
  """The grid of `config.sampling`."""
  if config.grid.name == "optimised":
    raise ValueError("config.sampling.grid=optimised is for numbers; take uniform_time for tokens")
  return calls.build(config.grid, "grid", "config.sampling.grid")


def check(config: config_lib.Sampling, path: discrete.paths.Path) -> None:
  """Checks a process of tokens before it runs.

  Raises:
    ValueError: a method, a grid or an option that is not for tokens; a grid outside of the path;
      guidance other than a weight.
  """
  build.at_least("sampling.batch_size", config.batch_size, 1)
  sampling_method = method(config)
  for name in _NOT_FOR_TOKENS:
    if getattr(config, name):
      raise ValueError(f"config.sampling.{name} is for numbers, and these data are tokens: leave "
                       "it out")
  try:
    discrete.samplers.plan(path, sampling_method, grid(config))
  except ValueError as error:
    raise ValueError(f"config.sampling: {str(error).removeprefix('config.sampling.')}") from error
  if path.mask is None and config.sampler.name == "unmask":
    raise ValueError("config.sampling.sampler=unmask needs the mask token of config.path=absorbing")
  weight(config)


def weight(config: config_lib.Sampling) -> float:
  """The weight of classifier-free guidance, 1 without it."""
  if config.guidance is None:
    return 1.0
  arguments = {k: v for k, v in config.guidance.arguments if k != "weight"}
  default = dict(calls.make(1.0, "guidance", "config.sampling.guidance").arguments)
  if config.guidance.name != "classifier_free" or any(
      default.get(k) != v for k, v in arguments.items()):
    raise ValueError("config.sampling.guidance of tokens is a weight alone, such as 2.0; got "
                     f"{calls.short(config.guidance, 'guidance')}")
  return float(config.guidance["weight"])


def refuse_continuous(found: Any, name: str) -> None:
  """Raises ValueError where the sampler of a path of numbers is one of tokens."""
  if isinstance(found, discrete.samplers.Method):
    raise ValueError(f"config.sampling.sampler={name} is for tokens, and config.path is one of "
                     "numbers: take ddim or heun")


def network_calls(config: config_lib.Sampling, path: discrete.paths.Path) -> int:
  """The number of network evaluations for one sample."""
  sampling_method, _, budget = discrete.samplers.plan(path, method(config), grid(config))
  return len(budget) * (1 + sampling_method.corrections) * (1 + (weight(config) != 1.0))


def denoiser(
    network: Callable[..., jax.Array], path: discrete.paths.Path, labels: Any,
    config: config_lib.Sampling | None, *, null_label: int,
) -> discrete.samplers.Denoise:
  """`denoise(x_t, t)` → logits of D, of a network (x, ℓ, labels), with the guidance of `config`."""
  along = lambda labels: lambda x, t: network(x, path.clock.half_log_snr(t), labels)
  given = along(labels)
  if config is None or weight(config) == 1.0:
    return given
  null = jax.numpy.full_like(labels, null_label)
  return discrete.samplers.classifier_free(given, along(null), weight(config))


def sampler(
    denoise: Callable[[Any, Any], discrete.samplers.Denoise], config: config_lib.Sampling,
    path: discrete.paths.Path, shape: tuple[int, ...], sample: Callable
) -> Callable[..., Any]:
  """(params, keys, labels, values, mask) → tokens, or their trajectory, for one batch.

  Args:
    denoise: (params, labels) → the denoiser. sample: of `discrete.samplers`.
  """
  check(config, path)
  options = {"shape": shape, "method": method(config), "grid": grid(config)}

  def draw(params, keys, labels, values, mask):
    known = {} if values is None else {"known": values, "mask": mask}
    return sample(keys, denoise(params, labels), path, **options, **known)

  return draw
