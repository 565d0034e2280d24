"""The least time that a step can take: the slowest of compute, HBM and interconnect.

The three are assumed to overlap perfectly, each at its specified speed, and collectives to run at
once wherever their links differ: no program is faster, and real ones are slower (half-filled matrix
units, elementwise work, waits, collectives that wait for one another).

Interconnect. A link carries w bytes a second each way. Assumed: a collective keeps to the axes that
its groups span and takes shortest ways, and every chip of an axis has as much to do as the busiest.
On N chips, of an array of S bytes in all of which every chip has S/N, each chip gets
  all-gather: the N−1 parts that it lacks, (N−1)/N · S, through the links of all axes spanned: two
    an axis that closes to a ring, on another axis one, as at its ends;
  reduce-scatter: the same backwards; all-reduce: both, one after the other;
  all-to-all: half of all chips send half of theirs across the middle of each axis, N/2 · S/2 one
    way, where a ring has 2 links and a line one: S · N/8w or S · N/4w, N along this axis;
  collective-permute: S for every link between source and target, by axis and direction, shared by
    all links of that axis and direction.
All but permutations may divide what they carry among their axes and directions as suits best. So
the least time is, by Hall's condition, the largest over sets A of axes of
  (all link-seconds that can be spent on A alone) / (links of a chip on A),
or the seconds of permutations in one direction of one axis, if these are more.
"""

import collections
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.planning import costs
from experiments.planning.topologies import Topology


class Roofline(NamedTuple):
  """Seconds of one step; None is not known, and bounds nothing."""

  compute: float
  hbm: float | None
  interconnect: float | None

  @property
  def bound(self) -> float:
    return max(seconds for seconds in self if seconds is not None)

  @property
  def limit(self) -> str:
    """What the bound is due to."""
    return self._fields[self.index(self.bound)]


def roofline(
    spent: costs.Costs, topology: Topology, devices: Sequence[jax.Device]
) -> Roofline:
  """The roofline of a program that costs `spent` on each of `devices`, in their assigned order."""
  chip = topology.chip
  return Roofline(
      spent.flops / chip.flops, spent.hbm_bytes / chip.hbm_bandwidth,
      interconnect_seconds(spent.collectives, topology, places(devices)))


def places(devices: Sequence[jax.Device]) -> list[tuple[int, ...]]:
  """The coordinates of TPU devices on the torus."""
  return [tuple(device.coords) for device in devices]


def interconnect_seconds(
    collectives: Sequence[costs.Collective], topology: Topology, places: Sequence[Sequence[int]]
) -> float:
  """Of all runs of all `collectives`. `places[i]` are the coordinates of device i on the torus."""
  axes = range(len(topology.shape))
  links = {axis: 2 if topology.closed else 1 for axis in axes}
  shared = collections.defaultdict(float)  # link-seconds of a chip, by axes among which to divide
  one_way = collections.defaultdict(float)  # seconds, by axis and direction
  for collective in collectives:
    permuted = collective.kind == "collective-permute"
    work = (_permutation if permuted else _exchange)(collective, topology, places, links)
    for where, seconds in work.items():
      (one_way if isinstance(where, tuple) else shared)[where] += collective.runs * seconds
  for axis in axes:
    ways = one_way[axis, 1], one_way[axis, -1]
    shared[frozenset((axis,))] += sum(ways) if topology.closed else max(ways)
  sets = (frozenset(part) for size in axes for part in itertools.combinations(axes, size + 1))
  return max(*one_way.values(), *(
      sum(seconds for part, seconds in shared.items() if part <= whole)
      / sum(links[axis] for axis in whole) for whole in sets))


def _exchange(collective, topology, places, links) -> dict[frozenset[int], float]:
  """Link-seconds of one run within groups, by the axes that share them."""
  group = collective.groups[0] if collective.groups else range(len(places))
  n, seconds = len(group), collective.bytes / topology.chip.link_bandwidth
  extents = [len({places[i][axis] for i in group}) for axis in links]
  spanned = frozenset(axis for axis in links if extents[axis] > 1)
  if not spanned:
    return {}
  # A part of an axis is a line, whatever the axis is.
  usable = {axis: 2 if topology.closed and extents[axis] == topology.shape[axis] else 1
            for axis in spanned}
  if "all-to-all" in collective.kind:
    return {frozenset((axis,)): links[axis] * seconds * extents[axis] / (4 * usable[axis])
            for axis in spanned}
  passes = 2 if collective.kind == "all-reduce" else 1
  alone = passes * (n - 1) / n * seconds / sum(usable.values())
  return {spanned: alone * sum(links[axis] for axis in spanned)}


def _permutation(collective, topology, places, links) -> dict[tuple | frozenset, float]:
  """Seconds of one run by (axis, ±1), and link-seconds of what could as well go either way."""
  work = collections.defaultdict(float)
  for axis in links:
    side = topology.shape[axis]
    # In one direction, of the whole slice: a line has no link from its last chip to the first.
    there = topology.chips if topology.closed else topology.chips // side * (side - 1)
    for source, target in collective.groups:
      hops = places[target][axis] - places[source][axis]
      if topology.closed:
        hops = (hops + side // 2) % side - side // 2
      where = (frozenset((axis,)) if topology.closed and 2 * abs(hops) == side
               else (axis, 1 if hops > 0 else -1))
      if hops:
        work[where] += abs(hops) * collective.bytes / (there * topology.chip.link_bandwidth)
  return work


def mfu_cap(model_flops: float, topology: Topology, bound: float) -> float:
  """Model FLOPs utilisation if a step took no longer than `bound`: F/(chips · peak · bound)."""
  return model_flops / (topology.chips * topology.chip.flops * bound)


def hours(images: float, global_batch: int, bound: float) -> float:
  """Hours to train on so many images at the bound."""
  return math.ceil(images / global_batch) * bound / 3600.0
