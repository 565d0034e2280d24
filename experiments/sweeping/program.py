"""Many trainings as one program: the arms of a group and their seeds, side by side.

A training objective is a density π(ℓ), a weight w(ℓ) and a row (a, b)(ℓ): functions of one scalar.
So arms with other paths, densities, weights or predictions have one network, of one shape, and
differ in scalars only: each arm's index chooses among the functions by `lax.switch`, and the
optimizer's numbers are arguments, as seeds are. An arm computes what a run of its own would, to
rounding: the same parameters to begin with, the same batches, the same noise.

Members (arm × seed) are divided over the devices. On a device they ride in one vmap, or, where one
member's products fill the processor already, one after another in one loop (`at_once`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import config as config_lib
from experiments.config import build, calls
from experiments.run import assembly
from experiments.sweeping import plan
from langevin_jax import objectives, predictions, training

# Multiply-adds of one forward pass from which a CPU gains nothing from a vmap over members: its
# batched products are slower than plain ones, and the states of all fall out of the cache.
_FULL = 2e6


class Member(NamedTuple):
  """One arm and seed, as the program takes it: scalars, and `half_lives` (averages,).

  batch: which of the seeds' batches. density, weight, row, dropout: which of the functions.
  """

  seed: Any
  batch: Any
  density: Any
  weight: Any
  row: Any
  dropout: Any
  numbers: dict[str, Any]
  half_lives: Any


class Program(NamedTuple):
  """members: a `Member` of stacked arrays, with a leading axis (n,), n a multiple of the devices.

  init: members → states. advance: (members, states, batches (seeds, K, batch, …)) → (states,
  metrics (n, K, …)); states are donated. each: f → a compiled function (members, params, *rest) →
  f(row, seed, params, *rest) for every member; `row` is its row of Table 5.
  seeds: of the batches, in their order. size: how many members there are, padding left out.
  saved: states → those of the members without padding, which is what a checkpoint has: it fits any
  number of devices. abstract: what that is restored into. padded: its inverse.
  """

  members: Member
  init: Callable[[Member], training.TrainState]
  advance: Callable[..., tuple[training.TrainState, training.Metrics]]
  each: Callable[[Callable[..., Any]], Callable[..., Any]]
  saved: Callable[[training.TrainState], training.TrainState]
  abstract: training.TrainState
  padded: Callable[[training.TrainState], training.TrainState]
  seeds: tuple[int, ...]
  size: int


def make(
    members: Sequence[tuple[assembly.Run, int]], devices: Sequence[jax.Device], *, at_once: int = 0
) -> Program:
  """The program of all members.

  Args:
    members: the run of the arm, all of one shape, and the seed that takes the place of its own.
    devices: over which members are divided; as many of each as it takes, some twice if need be.
    at_once: members in one vmap; 0: all on accelerators and for small networks, else one.
  """
  leader = members[0][0]
  stacked, seeds, chosen = _stack(members)
  mesh = jax.make_mesh((len(devices),), ("data",), devices=list(devices),
                       axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  padded = -(-len(members) // len(devices)) * len(devices)
  index = np.minimum(np.arange(padded), len(members) - 1)
  stacked = jax.device_put(jax.tree.map(lambda a: a[index], stacked), split)
  at_once = at_once or (1 if _fills(leader, devices[0]) else padded)

  def spread(f, *, donate=()):
    """f of one member at a time, as one compiled program over all; what follows two is shared."""
    def over(members, states, *rest):
      one = lambda pair: f(*pair, *rest)
      # lax.map with batch_size=1 would vmap over one.
      return jax.lax.map(one, (members, states), batch_size=None if at_once == 1 else at_once)

    def call(members, states, *rest):
      spec = jax.sharding.PartitionSpec
      mapped = jax.shard_map(over, mesh=mesh, check_vma=False, out_specs=spec("data"),
                             in_specs=(spec("data"), spec("data"), *(spec() for _ in rest)))
      return mapped(members, states, *rest)

    compiled = jax.jit(call, donate_argnums=donate)
    return lambda members, states, *rest: compiled(
        members, states, *jax.device_put(rest, whole))

  def start(member, _):
    params = leader.init(jax.random.key(member.seed)).params
    return training.init(params, _optimizer(leader, member), averages=len(leader.averages))

  def advance(member, state, batches):
    batch = jax.tree.map(lambda stack: stack[member.batch], batches)
    return training.train_steps(
        state, jax.random.key(member.seed + 1), batch, loss=_loss(leader, member, chosen),
        optimizer=_optimizer(leader, member), averages=_averages(leader, member),
        accumulation=leader.config.training.accumulation)

  def each(f):
    return spread(lambda member, params, *rest: f(
        _row(member, chosen), member.seed, params, *rest))

  begin = spread(start)
  size = len(members)
  # Members that are no multiple of the devices cannot be split over them.
  place = split if size == padded else whole
  shapes = jax.eval_shape(begin, stacked, stacked)
  abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
      (size, *leaf.shape[1:]), leaf.dtype, sharding=place), shapes)
  cut = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[:size], states), out_shardings=whole)
  fill = jax.jit(lambda states: jax.tree.map(lambda leaf: leaf[index], states), out_shardings=split)
  same = lambda states: states
  return Program(
      stacked, lambda members: begin(members, members), spread(advance, donate=(1,)), each,
      same if size == padded else cut, abstract, same if size == padded else fill, seeds, size)


def member_state(states: training.TrainState, i: int) -> training.TrainState:
  """The state of the i-th member as its own run would have it, on the host."""
  return jax.tree.map(lambda leaf: np.asarray(leaf[i]), states)


class _Choices(NamedTuple):
  """The distinct functions among the members."""

  densities: list[objectives.Density]
  weights: list[objectives.Weight]
  rows: list[predictions.Row]
  dropouts: list[float]


def _stack(members) -> tuple[Member, tuple[int, ...], _Choices]:
  """Members as stacked arrays, the distinct seeds, and the distinct functions."""
  found: dict[str, dict[Any, Any]] = {name: {} for name in ("density", "weight", "row", "dropout")}
  seeds: dict[int, int] = {}
  rows = []
  for run, seed in members:
    config, number = run.config, run.config.training
    made = {"density": build.density(config.objective, run.path)}
    made["weight"] = build.weight(config.objective, made["density"])
    made["row"] = build.prediction(config.objective)
    made["dropout"] = number.label_dropout
    keys = _keys(config)
    indices = {}
    for name, value in made.items():
      found[name].setdefault(keys[name], (len(found[name]), value))
      indices[name] = np.int32(found[name][keys[name]][0])
    rows.append(Member(
        np.uint32(seed), np.int32(seeds.setdefault(seed, len(seeds))), **indices,
        numbers={name: np.float32(value) for name, value in _numbers(number).items()},
        half_lives=np.asarray(number.ema_half_life_steps, np.float32)))
  choices = _Choices(*([value for _, value in found[name].values()] for name in found))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *rows), tuple(seeds), choices


def _keys(config: config_lib.Config) -> dict[str, Any]:
  """What each function depends on."""
  objective = config.objective
  of_path = calls.takes(objective.density, "density", "path")
  density = objective.density, config.path if of_path else None
  return {"density": density, "weight": (objective.weight, density), "row": objective.prediction,
          "dropout": config.training.label_dropout}


def _numbers(config: config_lib.Training) -> dict[str, float]:
  """What of an optimizer one program takes as arguments, arm by arm."""
  numbers = {name: getattr(config, name) for name in plan.NUMBERS}
  if config.optimizer.name == "adamw":
    numbers |= {name: config.optimizer[name] for name in plan.OPTIMIZER_NUMBERS}
  return numbers


def _loss(leader: assembly.Run, member: Member, chosen: _Choices) -> training.Loss:
  """`training.diffusion_loss` of the member's own functions."""
  density = objectives.Density(*(
      lambda x, part=part: _choose(member.density, [d[part] for d in chosen.densities], x)
      for part in (0, 1)))
  losses = [training.diffusion_loss(
      leader.apply, density=density, weight=lambda ell: _choose(member.weight, chosen.weights, ell),
      prediction=_row(member, chosen), num_classes=leader.dataset.num_classes, label_dropout=share)
            for share in chosen.dropouts]
  draw = lambda key, batch: _choose(member.dropout, [loss.draw for loss in losses], key, batch)
  return training.Loss(draw, losses[0].value)


def _row(member: Member, chosen: _Choices) -> predictions.Row:
  return lambda frame: _choose(member.row, chosen.rows, frame)


def _choose(index: jax.Array, functions: Sequence[Callable], *arguments: Any) -> Any:
  """The index-th function of the arguments; where there is but one, itself."""
  if len(functions) == 1:
    return functions[0](*arguments)
  return jax.lax.switch(index, functions, *arguments)


def _optimizer(leader: assembly.Run, member: Member):
  config, numbers = leader.config.training, member.numbers
  optimizer = config_lib.Call(config.optimizer.name, tuple(
      (key, numbers.get(key, value)) for key, value in config.optimizer.arguments))
  return build.clipped(
      optimizer, config.schedule, steps=config.steps, learning_rate=numbers["learning_rate"],
      gradient_clip=numbers["gradient_clip"])


def _averages(leader: assembly.Run, member: Member) -> tuple[training.averages.Average, ...]:
  lives = len(leader.config.training.ema_half_life_steps)
  return (*(training.averages.half_life(member.half_lives[i]) for i in range(lives)),
          *leader.averages[lives:])


def _fills(leader: assembly.Run, device: jax.Device) -> bool:
  """Whether one member alone keeps the device's processor busy."""
  if device.platform != "cpu":
    return False
  shapes = jax.eval_shape(leader.init, jax.random.key(0)).params
  parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  return leader.config.training.batch_size * parameters > _FULL
