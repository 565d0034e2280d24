"""The layout of training's arrays on a mesh of devices, by a table of rules.

A mesh has the axes data × fsdp × tensor. Programs do not change: XLA partitions them (GSPMD).

| | split over |
|---|---|
| batch | data and fsdp together |
| parameters | fsdp (Rajbhandari et al. 2020) and tensor (Shoeybi et al. 2019), by `RULES` |
| averages, optimizer state | as their parameters |

Over fsdp, parameters are gathered layer by layer. Over tensor, a head or a hidden unit stays on one
device.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "AXES", "RULES", "batch", "batch_shards", "constrain", "replicated", "spec", "state",
]

AXES = ("data", "fsdp", "tensor")
_BATCH = ("data", "fsdp")

# The first pattern that matches the end of a parameter's name gives the mesh axes of its last axes.
# Axes before these (the blocks of a scan), and axes that the mesh does not divide, are not split.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # To heads and hidden units, and from them.
    (r"(qkv|query|key_value|hidden|gate|first_\d+)/(kernel|weight)", ("fsdp", "tensor")),
    (r"(qkv|query|key_value|hidden|gate|first_\d+)/bias", ("tensor",)),
    (r"(merge|attended|back|second_\d+)/(kernel|weight)", ("tensor", "fsdp")),
    (r"kernel|weight", ("fsdp", None)),
    (r"", ()),
)


def spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """The partition of one array.

  Args:
    name: its path in the tree, such as "params/blocks/qkv/kernel"; only the end matters.
    shape: of the array.
    mesh: the mesh.
  """
  axes = next(axes for pattern, axes in RULES if re.search(f"({pattern})$", name))
  axes = (None,) * (len(shape) - len(axes)) + axes[max(len(axes) - len(shape), 0):]
  return PartitionSpec(*(
      axis if axis and size % mesh.shape[axis] == 0 and size >= mesh.shape[axis] else None
      for axis, size in zip(axes, shape, strict=True)))


def state(shapes: Any, mesh: Mesh) -> Any:
  """A tree of `NamedSharding`, one for each array of a training state or of parameters.

  Args:
    shapes: the tree, of arrays or `jax.ShapeDtypeStruct`.
    mesh: the mesh.
  """
  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, spec(name, leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(place, shapes)


def batch(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
  """The sharding of a batch: examples along `axis`, split over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds completely."""
  return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
  """The number of parts that a batch is split into."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def constrain(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  """A function that keeps activations (batch, …) split as a batch; the identity on one device.

  Without it, where a weight is split over fsdp, the partitioner may split activations over features
  and sum them over all devices in each layer, instead of gathering the weight.
  """
  shards = batch_shards(mesh)
  if mesh.size == 1:
    return lambda x: x
  return lambda x: x if x.shape[0] % shards else (
      jax.lax.with_sharding_constraint(x, batch(mesh)))
