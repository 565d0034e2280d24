"""A lower bound on the time of a step: the slowest of compute, HBM and interconnect.

The bound assumes that the three overlap perfectly at their specified speeds, and that collectives
on different links run at the same time. Real programs are slower: matrix units are partly filled,
and there is elementwise work and waiting.

Interconnect. A link carries w bytes per second in each direction. The bound assumes that a
collective uses the axes that its groups span and shortest routes, and that all chips of an axis
have the load of the busiest. For N chips and an array of S bytes in total, S/N on every chip:

  all-gather: a chip receives the N−1 other parts, (N−1)/N · S bytes, through its links on all
    spanned axes: two on an axis that is a ring, one on a line, as at its ends
  reduce-scatter: the same in reverse. all-reduce: both in sequence
  all-to-all: half of the chips send half of their data across the middle of each axis, N/2 · S/2 in
    one direction. A ring has 2 links there, a line 1: S · N/8w or S · N/4w, N along this axis
  collective-permute: S for every link between source and target, by axis and direction, shared by
    all links of that axis and direction

All collectives except permutations can divide their traffic among their axes and directions. Then,
by Hall's condition, the time is the maximum over sets A of axes of
  (link-seconds that must be spent on A) / (links of a chip on A),
and of the seconds of permutations in one direction of one axis.
"""

import collections
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.planning import costs
from experiments.planning.collectives import Collective
from experiments.planning.topologies import Topology


class Roofline(NamedTuple):
  """Lower bounds in seconds of one step; None is unknown and is ignored."""

  compute: float
  hbm: float | None
  interconnect: float | None

  @property
  def bound(self) -> float:
    """The largest of the bounds."""
    return max(seconds for seconds in self if seconds is not None)

  @property
  def limit(self) -> str:
    """The name of the largest bound."""
    return self._fields[self.index(self.bound)]


def roofline(
    spent: costs.Costs, topology: Topology, devices: Sequence[jax.Device]
) -> Roofline:
  """The roofline of a program with costs `spent` on each of `devices`, in their assigned order."""
  chip = topology.chip
  return Roofline(
      spent.flops / chip.flops, spent.hbm_bytes / chip.hbm_bandwidth,
      interconnect_seconds(spent.collectives, topology, places(devices)))


def places(devices: Sequence[jax.Device]) -> list[tuple[int, ...]]:
  """The coordinates of TPU devices on the torus."""
  return [tuple(device.coords) for device in devices]


def interconnect_seconds(
    collectives: Sequence[Collective], topology: Topology, places: Sequence[Sequence[int]]
) -> float:
  """The seconds of all collectives. `places[i]` are the coordinates of device i on the torus."""
  axes = range(len(topology.shape))
  links = {axis: 2 if topology.closed else 1 for axis in axes}
  shared = collections.defaultdict(float)  # link-seconds of a chip, by the axes that share them
  one_way = collections.defaultdict(float)  # seconds, by (axis, direction)
  for collective in collectives:
    is_permutation = collective.kind == "collective-permute"
    work = (_permutation if is_permutation else _exchange)(collective, topology, places, links)
    for key, seconds in work.items():
      (one_way if isinstance(key, tuple) else shared)[key] += collective.runs * seconds
  for axis in axes:
    ways = one_way[axis, 1], one_way[axis, -1]
    shared[frozenset((axis,))] += sum(ways) if topology.closed else max(ways)
  sets = (frozenset(part) for size in axes for part in itertools.combinations(axes, size + 1))
  return max(*one_way.values(), *(
      sum(seconds for part, seconds in shared.items() if part <= axis_set)
      / sum(links[axis] for axis in axis_set) for axis_set in sets))


def _exchange(collective, topology, places, links) -> dict[frozenset[int], float]:
  """The link-seconds of one run of a collective within groups, by the axes that share them."""
  group = collective.groups[0] if collective.groups else range(len(places))
  n, seconds = len(group), collective.bytes / topology.chip.link_bandwidth
  extents = [len({places[i][axis] for i in group}) for axis in links]
  spanned = frozenset(axis for axis in links if extents[axis] > 1)
  if not spanned:
    return {}
  # A part of an axis is a line, even if the axis is a ring.
  usable = {axis: 2 if topology.closed and extents[axis] == topology.shape[axis] else 1
            for axis in spanned}
  if "all-to-all" in collective.kind:
    return {frozenset((axis,)): links[axis] * seconds * extents[axis] / (4 * usable[axis])
            for axis in spanned}
  passes = 2 if collective.kind == "all-reduce" else 1
  duration = passes * (n - 1) / n * seconds / sum(usable.values())
  return {spanned: duration * sum(links[axis] for axis in spanned)}


def _permutation(collective, topology, places, links) -> dict[tuple | frozenset, float]:
  """The seconds of one run of a permutation by (axis, ±1).

  Traffic with two shortest routes on a ring counts as link-seconds of its axis.
  """
  work = collections.defaultdict(float)
  for axis in links:
    side = topology.shape[axis]
    # The links in one direction in the whole slice. A line has none from its end to its start.
    num_links = topology.chips if topology.closed else topology.chips // side * (side - 1)
    for source, target in collective.groups:
      hops = places[target][axis] - places[source][axis]
      if topology.closed:
        hops = (hops + side // 2) % side - side // 2
      key = (frozenset((axis,)) if topology.closed and 2 * abs(hops) == side
             else (axis, 1 if hops > 0 else -1))
      if hops:
        work[key] += abs(hops) * collective.bytes / (num_links * topology.chip.link_bandwidth)
  return work


def mfu_cap(model_flops: float, topology: Topology, bound: float) -> float:
  """The model FLOPs utilisation of a step that takes `bound` seconds: F/(chips · peak · bound)."""
  return model_flops / (topology.chips * topology.chip.flops * bound)


def hours(images: float, global_batch: int, bound: float) -> float:
  """The hours to train on `images` images, if a step takes `bound` seconds."""
  return math.ceil(images / global_batch) * bound / 3600.0
