"""TPU slices by name, such as v5e:16x16, and their devices for compiling without a TPU."""

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from experiments.planning.chips import CHIPS, Chip


class Topology(NamedTuple):
  """A slice: its name, its kind of chip, and the shape of its grid of chips."""

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def closed(self) -> bool:
    """Whether all axes are rings; otherwise all are lines (`Chip.wraps`)."""
    return all(side % self.chip.wraps == 0 for side in self.shape)


def parse(names: str) -> list[Topology]:
  """The topologies of `v5e:16x16,v5p:8x8x8`.

  Raises:
    ValueError: there is no name, a chip or shape is unknown, or a name is repeated.
  """
  parts = [name.strip() for name in names.split(",") if name.strip()]
  if not parts:
    raise ValueError("--topology is required, such as --topology=v5e:16x16,v5p:8x8x8")
  if len(set(parts)) < len(parts):
    raise ValueError(f"--topology names one twice: {names}")
  return [_topology(name) for name in parts]


def _topology(name: str) -> Topology:
  kind, _, sides = name.partition(":")
  if kind not in CHIPS:
    raise ValueError(f"--topology: {name!r} is unknown: the chip must be one of {', '.join(CHIPS)},"
                     " such as v5e:16x16")
  chip = CHIPS[kind]
  sizes = sides.split("x")
  shape = tuple(int(side) for side in sizes) if all(map(str.isdecimal, sizes)) else ()
  blocks = len(shape) == chip.axes and all(side and side % 4 == 0 for side in shape) and (
      math.prod(shape) <= chip.full_blocks and list(shape) == sorted(shape))
  if shape not in chip.slices and not blocks:
    allowed = ", ".join("x".join(map(str, s)) for s in chip.slices)
    if chip.full_blocks:
      allowed += f", and rising multiples of 4 in all axes up to {chip.full_blocks} chips"
    raise ValueError(f"--topology: {name!r} is unknown: {kind} has the slices {allowed}")
  return Topology(name, chip, shape)


def prepare_environment() -> None:
  """Configures libtpu and jax to compile without a TPU and without a cloud.

  Call it before jax initialises its devices.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  jax.config.update("jax_platforms", "cpu")
  # Programs that were compiled without a device cannot be loaded from a cache.
  jax.config.update("jax_enable_compilation_cache", False)
  # By default libtpu looks for the TPU of the machine, prints errors if there is none, and allows
  # only one process to compile.
  defaults = {"TPU_SKIP_MDS_QUERY": "1", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
           "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
           "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
  for name, value in defaults.items():
    os.environ.setdefault(name, value)


def require_libtpu() -> None:
  """Raises ValueError, with the remedy, if libtpu is not installed."""
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError("planning needs libtpu, which compiles for TPUs without having one: "
                     'pip install -e ".[tpu]" (best in an environment of its own), or make plan')


def devices(topology: Topology) -> Sequence[jax.Device]:
  """The devices of `topology`, one per chip. They can only be compiled for."""
  options = {}
  if topology.name.startswith("v4:"):
    options["chip_config_name"] = "megacore"  # both cores of a chip as one device
  if topology.chips < 4:
    options["chips_per_host_bounds"] = (1, 1, 1)
  devices_ = topologies.get_topology_desc(
      platform="tpu", topology_name=topology.name, **options).devices
  if len(devices_) != topology.chips:
    raise ValueError(f"--topology: libtpu makes {len(devices_)} devices of {topology.name!r}, not "
                     f"{topology.chips}")
  return devices_
