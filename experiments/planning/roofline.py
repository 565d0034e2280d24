"""The least time that a step can take: the slowest of compute, HBM and interconnect.

The three are assumed to overlap perfectly, and each to run at its specified speed: no program is
faster, and real ones are slower (half-filled matrix units, elementwise work, waits). Collectives
are taken one after another, each with all links of the axes that it spans.

Time of a collective. On a ring of N chips with two links each, both ways in use, an array of S
bytes in all, of which every chip has S/N:
  all-gather: every chip lacks N−1 parts, and gets them through 2 links: (N−1)/N · S / 2w;
  reduce-scatter: the same backwards. all-reduce: both, one after the other.
  all-to-all: every chip sends S/N of its S to each other one. Half of all chips send half of theirs
    across the middle, N/2 · S/2 one way, and a ring has 2 links there: S · N/8w;
  collective-permute: S through as many links as source and target are apart: S/w for neighbours.
On several axes the links of all of them share the first three, and an all-to-all is bound by its
longest axis. An axis that is no ring (chips.Chip.wraps) has half of these links: one at its ends,
one in its middle.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.planning import costs
from experiments.planning.topologies import Topology


class Roofline(NamedTuple):
  """Seconds of one step."""

  compute: float
  hbm: float
  interconnect: float

  @property
  def bound(self) -> float:
    return max(self)

  @property
  def limit(self) -> str:
    """What the bound is due to."""
    return self._fields[self.index(max(self))]


def roofline(
    spent: costs.Costs, topology: Topology, devices: Sequence[jax.Device]
) -> Roofline:
  """The roofline of a program that costs `spent` on each of `devices`, in their assigned order."""
  chip = topology.chip
  on_torus = places(devices)
  seconds = sum(c.runs * collective_seconds(c, topology, on_torus) for c in spent.collectives)
  return Roofline(spent.flops / chip.flops, spent.hbm_bytes / chip.hbm_bandwidth, seconds)


def places(devices: Sequence[jax.Device]) -> list[tuple[int, ...]]:
  """The coordinates of TPU devices on the torus."""
  return [tuple(device.coords) for device in devices]


def collective_seconds(
    collective: costs.Collective, topology: Topology, places: Sequence[Sequence[int]]
) -> float:
  """Of one run. `places[i]` are the coordinates of device i on the torus."""
  w, wraps = topology.chip.link_bandwidth, topology.chip.wraps
  ring = [side % wraps == 0 for side in topology.shape]
  if collective.kind == "collective-permute":
    return collective.bytes * max(
        (_distance(places[a], places[b], topology.shape, ring) for a, b in collective.groups),
        default=0) / w
  group = collective.groups[0] if collective.groups else range(len(places))
  n = len(group)
  extents = [len({places[i][axis] for i in group}) for axis in range(len(topology.shape))]
  spanned = [axis for axis, extent in enumerate(extents) if extent > 1]
  if n == 1 or not spanned:
    return 0.0
  # A part of an axis is a line, whatever the axis is.
  closed = [ring[axis] and extents[axis] == topology.shape[axis] for axis in spanned]
  if "all-to-all" in collective.kind:
    return collective.bytes * max(
        extents[axis] / (8 if whole else 4) for axis, whole in zip(spanned, closed, strict=True)
    ) / w
  links = sum(2 if whole else 1 for whole in closed)
  passes = 2 if collective.kind == "all-reduce" else 1
  return passes * (n - 1) / n * collective.bytes / (links * w)


def _distance(a, b, shape, ring):
  steps = (abs(i - j) for i, j in zip(a, b, strict=False))
  return sum(min(step, side - step) if closed else step
             for step, side, closed in zip(steps, shape, ring, strict=False))


def mfu_cap(model_flops: float, topology: Topology, bound: float) -> float:
  """Model FLOPs utilisation if a step took no longer than `bound`: F/(chips · peak · bound)."""
  return model_flops / (topology.chips * topology.chip.flops * bound)


def hours(images: float, global_batch: int, bound: float) -> float:
  """Hours to train on so many images at the bound."""
  return math.ceil(images / global_batch) * bound / 3600.0
