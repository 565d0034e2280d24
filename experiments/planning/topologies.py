"""TPU slices by name, such as v5e:16x16, and their devices on a machine that has none."""

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from experiments.planning.chips import CHIPS, Chip


class Topology(NamedTuple):
  """A slice: `name`, as given, of chips of one kind in a grid of `shape`."""

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def closed(self) -> bool:
    """Whether every axis is a ring, or else every axis a line (`Chip.wraps`)."""
    return all(side % self.chip.wraps == 0 for side in self.shape)


def parse(names: str) -> list[Topology]:
  """The topologies of `v5e:16x16,v5p:8x8x8`.

  Raises:
    ValueError: none, an unknown chip, a shape that its slices do not have, or one name twice.
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
    there = ", ".join("x".join(map(str, s)) for s in chip.slices)
    if chip.full_blocks:
      there += f", and rising multiples of 4 in all axes up to {chip.full_blocks} chips"
    raise ValueError(f"--topology: {name!r} is unknown: {kind} has the slices {there}")
  return Topology(name, chip, shape)


def prepare_environment() -> None:
  """Settings that libtpu and jax read when they start: nothing is asked of a TPU or of a cloud.

  To be called before anything touches jax's devices.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  jax.config.update("jax_platforms", "cpu")
  # What is compiled without a device cannot be read back from a cache.
  jax.config.update("jax_enable_compilation_cache", False)
  # libtpu looks for the machine it runs on, complains where that is no TPU's, and would let one
  # process at a time compile.
  quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
           "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
           "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
  for name, value in quiet.items():
    os.environ.setdefault(name, value)


def require_libtpu() -> None:
  """Raises ValueError, which says what to install, where libtpu is not."""
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError("planning needs libtpu, which compiles for TPUs without having one: "
                     'pip install -e ".[tpu]" (best in an environment of its own), or make plan')


def devices(topology: Topology) -> Sequence[jax.Device]:
  """The devices of `topology`, one a chip: for them one can compile, and nothing else."""
  options = {}
  if topology.name.startswith("v4:"):
    options["chip_config_name"] = "megacore"  # both cores of a chip as one device
  if topology.chips < 4:
    options["chips_per_host_bounds"] = (1, 1, 1)
  found = topologies.get_topology_desc(
      platform="tpu", topology_name=topology.name, **options).devices
  if len(found) != topology.chips:
    raise ValueError(f"--topology: libtpu makes {len(found)} devices of {topology.name!r}, not "
                     f"{topology.chips}")
  return found
