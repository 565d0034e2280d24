"""Many trainings as one compiled program: the arms of a group and their seeds, side by side.

A training objective is a density π(ℓ), a weight w(ℓ) and a row (a, b)(ℓ), three functions of one
scalar. Arms that differ in path, density, weight or prediction therefore share the shape of the
network and of the computation. The index of an arm selects its functions by `lax.switch`; seeds and
the optimizer's numbers are arguments. Up to rounding, an arm gives the result of its own run: the
same initial parameters, batches and noise.

Members (arm × seed) are divided over the devices. On a device they are computed in one vmap. If one
member keeps the processor busy, they are computed one after another in a loop (`at_once`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments import config as config_lib
from experiments.config import build, calls
from experiments.run import assembly
from experiments.sweeping import layouts
from langevin_jax import objectives, predictions, training

# From this number of multiply-adds in a forward pass, a vmap over members does not help on a CPU:
# batched products are slower than single ones, and the states of all members exceed the cache.
_BUSY = 2e6


class Member(NamedTuple):
  """One arm and seed as arguments of the program: scalars, and `half_lives` (averages,).

  batch: index of the batches of the seed. density, weight, row, dropout: indices into `Functions`.
  numbers: those of `layouts.NUMBERS` and `OPTIMIZER_NUMBERS`, by name.
  """

  seed: Any
  batch: Any
  density: Any
  weight: Any
  row: Any
  dropout: Any
  numbers: dict[str, Any]
  half_lives: Any


class Functions(NamedTuple):
  """The distinct functions and label dropouts of all members; some may be learned."""

  density: list[objectives.Density | objectives.LearnedDensity]
  weight: list[objectives.Weight | objectives.LearnedWeight]
  row: list[predictions.Row]
  dropout: list[float]


class Program(NamedTuple):
  """The training of n members. States and metrics have a leading axis (n,).

  members: a `Member` of stacked arrays.
  init: members → states.
  advance: (members, states, batches (seeds, K, batch, …)) → (states, metrics (n, K, …)) after K
    steps. The states are donated.
  each: f → a compiled function (members, params, *rest) → f(row, seed, params, *rest) of every
    member; `row` is the member's row of Table 5.
  abstract: shapes, dtypes and shardings of states, for restoring a checkpoint. The checkpoint may
    come from another number of devices.
  seeds: the seeds of the batches, in their order.
  """

  members: Member
  init: Callable[[Member], training.TrainState]
  advance: Callable[..., tuple[training.TrainState, training.Metrics]]
  each: Callable[[Callable[..., Any]], Callable[..., Any]]
  abstract: training.TrainState
  seeds: tuple[int, ...]


class _Devices(NamedTuple):
  """The placement of `size` members: over `mesh`, `at_once` in one vmap on each device."""

  mesh: jax.sharding.Mesh
  size: int
  at_once: int

  @property
  def padding(self) -> int:
    """How often the last member is repeated, so that all devices have the same number."""
    return -self.size % self.mesh.size

  @property
  def sharding(self) -> NamedSharding:
    """The sharding of arrays over members: split if the devices divide them, else replicated."""
    return NamedSharding(self.mesh, PartitionSpec() if self.padding else PartitionSpec("data"))


def make(
    members: Sequence[tuple[assembly.Run, int]], devices: Sequence[jax.Device], *, at_once: int = 0
) -> Program:
  """The program of all members.

  Args:
    members: (run of the arm, seed) each. The seed replaces that of the run. All runs have the same
      shapes.
    devices: members are divided evenly over them; the last member is repeated as padding.
    at_once: number of members in one vmap. 0: all on accelerators and for small networks, else one.
  """
  leader = members[0][0]
  stacked, seeds, functions = _stack_members(members)
  mesh = jax.make_mesh((len(devices),), ("data",), devices=list(devices),
                       axis_types=(jax.sharding.AxisType.Auto,))
  placement = _Devices(mesh, len(members), at_once or (
      1 if _is_busy(leader, devices[0]) else len(members) + len(devices)))
  stacked = jax.device_put(stacked, placement.sharding)
  init_each = _map_members(placement, lambda member, _: _initial_state(leader, functions, member))
  init = lambda members: init_each(members, members)
  advance = _map_members(placement, lambda member, state, batches: _train_steps(
      leader, functions, member, state, batches), donate=(1,))
  each = lambda f: _map_members(placement, lambda member, params, *rest: f(
      _row(functions, member), member.seed, params, *rest))
  abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=placement.sharding), jax.eval_shape(init, stacked))
  return Program(stacked, init, advance, each, abstract, seeds)


def member_state(program: Program, states: training.TrainState, i: int) -> training.TrainState:
  """The state of the i-th member on the host, in the form of a single run."""
  state, members = jax.tree.map(lambda leaf: np.asarray(leaf[i]), states), program.members
  own = {part: options[int(getattr(members, part)[i])]
         for part, options in dict(state.learned).items()}
  return state._replace(
      learned={part: value for part, value in own.items() if jax.tree.leaves(value)} or ())


def _map_members(
    placement: _Devices, f: Callable, *, donate: tuple[int, ...] = ()
) -> Callable:
  """A compiled function (members, values, *rest) → f(member, value, *rest) of each member.

  Members and values have a leading axis (n,), and so have the results; `rest` is shared.
  """
  split, shared = PartitionSpec("data"), PartitionSpec()

  def map_on_one_device(pairs, rest):
    # batch_size=1 would add a vmap over one member.
    return jax.lax.map(lambda pair: f(*pair, *rest), pairs,
                       batch_size=None if placement.at_once == 1 else placement.at_once)

  def map_on_all_devices(members, values, *rest):
    on_devices = jax.shard_map(map_on_one_device, mesh=placement.mesh, check_vma=False,
                               in_specs=(split, shared), out_specs=split)
    if not placement.padding:
      return on_devices((members, values), rest)
    index = np.minimum(np.arange(placement.size + placement.padding), placement.size - 1)
    padded = jax.tree.map(lambda leaf: leaf[index], (members, values))
    return jax.tree.map(lambda leaf: leaf[:placement.size], on_devices(padded, rest))

  compiled = jax.jit(
      map_on_all_devices, donate_argnums=donate, out_shardings=placement.sharding)
  replicated = NamedSharding(placement.mesh, shared)
  return lambda members, values, *rest: compiled(
      members, values, *jax.device_put(rest, replicated))


def _initial_state(leader: assembly.Run, functions: Functions, member: Member):
  """The state of one member before the first step."""
  params = leader.init(jax.random.key(member.seed)).params
  return training.init(params, _optimizer(leader, member), averages=len(leader.averages),
                       loss=_loss(leader, functions, member))


def _train_steps(leader, functions, member, state, batches):
  """(state, metrics) of one member after the K steps of `batches` (seeds, K, batch, …)."""
  batch = jax.tree.map(lambda stack: stack[member.batch], batches)
  return training.train_steps(
      state, jax.random.key(member.seed + 1), batch, loss=_loss(leader, functions, member),
      optimizer=_optimizer(leader, member), averages=_averages(leader, member),
      accumulation=leader.config.training.accumulation)


def _stack_members(members) -> tuple[Member, tuple[int, ...], Functions]:
  """(members as stacked arrays (n, …), the distinct seeds, the distinct functions)."""
  distinct: dict[str, dict[Any, Any]] = {name: {} for name in Functions._fields}
  seeds = tuple(dict.fromkeys(seed for _, seed in members))
  rows = []
  for run, seed in members:
    indices = {}
    for name, (key, value) in _functions(run).items():
      distinct[name].setdefault(key, value)
      indices[name] = np.int32(list(distinct[name]).index(key))
    config = run.config.training
    rows.append(Member(
        np.uint32(seed), np.int32(seeds.index(seed)), **indices,
        numbers={name: np.float32(value) for name, value in _numbers(config).items()},
        half_lives=np.asarray(config.ema_half_life_steps, np.float32)))
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
  return stacked, seeds, Functions(*(list(values.values()) for values in distinct.values()))


def _functions(run: assembly.Run) -> dict[str, tuple[Any, Any]]:
  """(key, function) for each field of `Functions`; equal keys mean equal functions."""
  config, objective = run.config, run.config.objective
  density, weight, _ = build.objective(config)
  # The base of a learned density may use the path.
  uses_path = objectives.base(density) is not density or (
      calls.takes(objective.density, "density", "path"))
  key = objective.density, config.path if uses_path else None
  return {"density": (key, density), "weight": ((objective.weight, key), weight),
          "row": (objective.prediction, build.prediction(objective)),
          "dropout": (config.training.label_dropout, config.training.label_dropout)}


def _numbers(config: config_lib.Training) -> dict[str, float]:
  """The numbers of a config that are arguments of the program, by name."""
  numbers = {name: getattr(config, name) for name in layouts.NUMBERS}
  if config.optimizer.name == "adamw":
    numbers |= {name: config.optimizer[name] for name in layouts.OPTIMIZER_NUMBERS}
  return numbers


def _loss(
    leader: assembly.Run, functions: Functions, member: Member
) -> training.Loss | training.AdaptiveLoss:
  """The loss with the member's density, weight, row and label dropout."""
  def make(density, weight):
    losses = [leader.make_loss(
        density=density, weight=weight, prediction=_row(functions, member), label_dropout=share)
              for share in functions.dropout]
    draw = lambda key, batch: _choose(member.dropout, [loss.draw for loss in losses], key, batch)
    return losses[0]._replace(draw=draw)

  density = lambda options: objectives.Density(*(
      lambda x, part=part: _choose(member.density, [d[part] for d in options], x)
      for part in (0, 1)))
  weight = lambda options: lambda ell: _choose(member.weight, options, ell)
  return training.adaptive_loss(
      make, density=_learnable(objectives.LearnedDensity, density, functions.density),
      weight=_learnable(objectives.LearnedWeight, weight, functions.weight))


def _learnable(kind: type, choose: Callable[[Sequence[Any]], Any], options: Sequence[Any]) -> Any:
  """The chosen density or weight of `options`, which is of the learned `kind` if one of them is.

  It has the states of all options, () of one that is not learned. All observe; one is used.
  """
  if not any(isinstance(option, kind) for option in options):
    return choose(options)
  each = lambda learned, *rest: tuple(
      learned(option, *values) if isinstance(option, kind) else ()
      for option, *values in zip(options, *rest, strict=True))
  return kind(
      choose([objectives.base(option) for option in options]), each(lambda option: option.init),
      lambda states: choose([option.at(state) if isinstance(option, kind) else option
                             for option, state in zip(options, states, strict=True)]),
      lambda states, ells, values: each(
          lambda option, state: option.observe(state, ells, values), states))


def _row(functions: Functions, member: Member) -> predictions.Row:
  """The member's row of Table 5."""
  return lambda frame: _choose(member.row, functions.row, frame)


def _choose(index: jax.Array, functions: Sequence[Callable], *arguments: Any) -> Any:
  """The value of the index-th function; a single function is called without `lax.switch`."""
  if len(functions) == 1:
    return functions[0](*arguments)
  return jax.lax.switch(index, functions, *arguments)


def _optimizer(leader: assembly.Run, member: Member):
  """The optimizer with the member's numbers."""
  config, numbers = leader.config.training, member.numbers
  optimizer = config_lib.Call(config.optimizer.name, tuple(
      (key, numbers.get(key, value)) for key, value in config.optimizer.arguments))
  return build.clipped(
      optimizer, config.schedule, steps=config.steps, learning_rate=numbers["learning_rate"],
      gradient_clip=numbers["gradient_clip"])


def _averages(leader: assembly.Run, member: Member) -> tuple[training.averages.Average, ...]:
  """The parameter averages with the member's half-lives."""
  lives = len(leader.config.training.ema_half_life_steps)
  return (*(training.averages.half_life(member.half_lives[i]) for i in range(lives)),
          *leader.averages[lives:])


def _is_busy(leader: assembly.Run, device: jax.Device) -> bool:
  """Whether one member keeps the device busy; always False on accelerators."""
  if device.platform != "cpu":
    return False
  shapes = jax.eval_shape(leader.init, jax.random.key(0)).params
  parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  return leader.config.training.batch_size * parameters > _BUSY
