"""Where the arrays of training lie on a mesh of devices: a table of rules, and what follows.

A mesh has the axes data × fsdp × tensor. A batch is split over data and fsdp together. Parameters
are split over fsdp (Rajbhandari et al. 2020, stage 3: gathered layer by layer where they are used)
and tensor (Shoeybi et al. 2019: heads and hidden units stay whole on a device); averages and the
optimizer's state lie as their parameters do. Everything is GSPMD: programs do not change.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
_BATCH = ("data", "fsdp")

# The first rule found at the end of a parameter's name says how its last axes are split; axes
# before them (the blocks of a scan) are not. What a mesh axis does not divide is whole everywhere.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(qkv|hidden|first_\d+)/kernel", ("fsdp", "tensor")),  # into heads and hidden units
    (r"(qkv|hidden|first_\d+)/bias", ("tensor",)),
    (r"(merge|back|second_\d+)/kernel", ("tensor", "fsdp")),  # and out of them
    (r"kernel", ("fsdp", None)),
    (r"", ()),
)


def spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """How the array called `name` ("blocks/qkv/kernel", whatever stands before) is split."""
  axes = next(axes for pattern, axes in RULES if re.search(f"({pattern})$", name))
  axes = (None,) * (len(shape) - len(axes)) + axes[max(len(axes) - len(shape), 0):]
  return PartitionSpec(*(
      axis if axis and size % mesh.shape[axis] == 0 and size >= mesh.shape[axis] else None
      for axis, size in zip(axes, shape, strict=True)))


def state(shapes: Any, mesh: Mesh) -> Any:
  """A `NamedSharding` for every array of a state, or of parameters alone.

  Args:
    shapes: the tree, of arrays or `jax.ShapeDtypeStruct`.
  """
  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, spec(name, leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(place, shapes)


def batch(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
  """Examples along `axis`, split over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
  """Into how many parts a batch is split."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def constrain(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  """A function that keeps activations (batch, …) split as a batch is; the identity on one device.

  Without it the partitioner may prefer to split activations over features where a weight is split
  over fsdp, and add them up over all devices layer by layer, rather than gather the weight.
  """
  shards = batch_shards(mesh)
  if mesh.size == 1:
    return lambda x: x
  return lambda x: x if x.shape[0] % shards else (
      jax.lax.with_sharding_constraint(x, batch(mesh)))
