"""Meshes of devices, from a config's three sizes, and how XLA compiles for devices."""

import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from experiments import config as config_lib
from langevin_jax.training import shardings


def shape(config: config_lib.Mesh, count: int) -> tuple[int, int, int]:
  """The sizes of data, fsdp and tensor over `count` devices.

  Raises:
    ValueError: sizes whose product is not the number of devices.
  """
  sizes = vars(config)
  for name, size in sizes.items():
    if size != -1 and size < 1:
      raise ValueError(f"config.mesh.{name}: must be positive, or -1 for the rest; got {size}")
  rest = [name for name, size in sizes.items() if size == -1]
  if len(rest) > 1:
    raise ValueError(f"config.mesh: only one of {', '.join(rest)} can be -1, the rest")
  given = math.prod(size for size in sizes.values() if size != -1)
  if count % given or (not rest and given != count):
    asked = " × ".join(f"{name}={size}" for name, size in sizes.items())
    raise ValueError(
        f"config.mesh: {asked} does not fit {count} device{'s' * (count > 1)}: the "
        f"product must {'divide' if rest else 'be'} {count}; set config.mesh.data=-1 for "
        "the rest, or for a CPU config.training.cpu_devices")
  return tuple(count // given if size == -1 else size for size in sizes.values())


def make(
    config: config_lib.Mesh, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """The mesh data × fsdp × tensor over `devices`, all there are if left out.

  Neighbours along tensor, which talk most, are nearest to each other. Raises ValueError as `shape`.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = shape(config, len(devices))
  if devices[0].platform == "tpu":
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  else:
    grid = np.asarray(devices).reshape(sizes)
  axes = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.sharding.Mesh(grid, shardings.AXES, axis_types=axes)


@functools.cache
def own_convolutions(platform: str) -> dict[str, str]:
  """Options with which XLA computes convolutions, and their gradients, by kernels of its own.

  On a CPU it calls a library instead, YNNPACK, which takes longer (docs/benchmarks.md). Products
  and sums stay there. The options are those of the outermost `jax.jit`. There are none for other
  platforms, nor for a version of XLA that has no such choice.
  """
  if platform != "cpu":
    return {}
  kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
  options = {"xla_cpu_experimental_ynn_fusion_type": kinds}
  try:
    jax.jit(lambda: 0.0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def batch_parts(
    config: config_lib.Training, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
) -> int:
  """Into how many parts a batch is cut, over devices and one after another."""
  return config.accumulation * shardings.batch_shards(mesh)


def check_batch(
    config: config_lib.Training, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
) -> None:
  """Raises ValueError where a batch, or a part of it, is not as large on every device."""
  parts = batch_parts(config, mesh)
  if config.batch_size % parts:
    raise ValueError(
        f"config.training.batch_size: {config.batch_size} must be divisible by {parts} = "
        f"accumulation={config.accumulation} × mesh data={mesh.shape['data']} × "
        f"fsdp={mesh.shape['fsdp']}")
