"""Which average of a run's parameters is used: one that it kept, or one made of its snapshots.

A run keeps the averages of `training.ema_half_life_steps` and `training.ema_relative_std`. Those of
the latter go to snapshots/ in the workdir now and then, from which an average of any length is made
afterwards: post-hoc EMA (`langevin_jax.training.averages`).
"""

import functools
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import config as config_lib
from experiments.run import assembly, checkpoints, dispatches, multihost
from langevin_jax import training
from langevin_jax.training import averages

Params = Any
_POOR = 0.1  # a residual at which what is made is another average


class Choice(NamedTuple):
  """kind: none (the parameters themselves), half_life (in steps) or relative_std; its value."""

  kind: str
  value: float = 0.0

  def __str__(self) -> str:
    return self.kind if self.kind == "none" else f"{self.kind}={self.value:.12g}"


def kept(config: config_lib.Training) -> list[Choice]:
  """The averages in `state.ema`, in its order."""
  return [*(Choice("half_life", life) for life in config.ema_half_life_steps),
          *(Choice("relative_std", std) for std in config.ema_relative_std)]


def named(text: str, config: config_lib.Training, workdir: pathlib.Path) -> Choice:
  """What `--ema` asks for; "" is the run's first half-life.

  Raises:
    ValueError: not one of the forms, a value out of range, or one that was not kept where there are
      no snapshots to make it of.
  """
  own = kept(config)
  if not text:
    return own[0]
  kind, equals, value = text.partition("=")
  forms = {"none": False, "half_life": True, "relative_std": True}
  try:
    if forms.get(kind) != bool(equals):
      raise ValueError
    made = Choice(kind, float(value)) if equals else Choice(kind)
  except ValueError as error:
    raise ValueError("--ema must be none, half_life=STEPS or relative_std=WIDTH (of the training); "
                     f"this run has kept {_listed(own)}; got {text!r}") from error
  if made.kind == "half_life" and not 0.0 < made.value < float("inf"):
    raise ValueError(f"--ema: half_life must be a positive number of steps, got {value!r}")
  if made.kind == "relative_std":
    try:
      averages.exponent(made.value)
    except ValueError as error:
      raise ValueError(f"--ema: {error}") from error
  if made.kind != "none" and made not in own and not any(
      (workdir / "snapshots").glob("[0-9]*")):
    raise ValueError(
        f"--ema={text} is none of what this run has kept, {_listed(own)}; others are made of "
        "snapshots, which it has none of: train with config.training.ema_relative_std=0.05,0.1 and "
        "config.training.snapshot_every, some sixteenth of the steps")
  return made


def of(
    run: assembly.Run, state: training.TrainState, workdir: pathlib.Path, choice: Choice
) -> tuple[Params, dict[str, Any]]:
  """The parameters of `choice` at the step of `state`, and what a JSON says of them.

  One that was kept is taken as it is. Any other is the sum of snapshots nearest to it, read one by
  one: as much memory as for two, however many there are. Its `residual` is the distance of the
  profiles relative to the one wanted; damaged snapshots are left out. Keep a profile as narrow as
  the narrowest that you may want: beyond it the residual says little, once the learning rate has
  decayed and such an average is next to the parameters themselves.

  Raises:
    ValueError: snapshots that are of another network.
  """
  own = kept(run.config.training)
  facts = {"average": str(choice), "kept": choice in own}
  if choice.kind == "none":
    return state.params, {"average": "none"}
  if choice in own:
    return state.ema[own.index(choice)], facts
  step = int(state.step)
  target = (averages.power_profile(choice.value, step) if choice.kind == "relative_std" else
            averages.running_profile(averages.half_life(choice.value), step))
  stds = run.config.training.ema_relative_std
  with manager(workdir, read_only=True) as snapshots:
    steps = sorted(stored for stored in snapshots.all_steps() if stored < step)
    made = None
    while made is None:
      names = [(stored, std) for stored in (*steps, step) for std in stds]
      weights, residual = averages.reconstruct(*zip(*names, strict=True), target)
      made = _sum(snapshots, state, dict(zip(names, weights.tolist(), strict=True)), own, steps)
  facts["residual"] = residual
  facts["snapshots"] = [{"step": stored, "relative_std": std, "weight": weight}
                        for (stored, std), weight in zip(names, weights.tolist(), strict=True)]
  if multihost.is_first():
    poor = "" if residual < _POOR else "; that is poor, and takes more snapshots or nearer profiles"
    print(f"{choice}: not kept, made of {len(names)} snapshots of {_listed(own[-len(stds):])}; the "
          f"profile's relative residual is {residual:.2g}{poor}", flush=True)
  return made, facts


def snapshot_due(config: config_lib.Training, start: int, end: int) -> bool:
  """Whether steps start…end have passed a multiple of `snapshot_every`, or are the last ones."""
  every = config.snapshot_every
  return dispatches.passes(every, start, end) or (every > 0 and end == config.steps)


def manager(workdir: pathlib.Path, *, read_only: bool = False) -> checkpoints.Manager:
  """The snapshots under `workdir`, all of which are kept."""
  return checkpoints.Manager(workdir / "snapshots", keep=None, read_only=read_only)


def save_snapshot(
    manager: checkpoints.Manager, step: int, state: training.TrainState,
    config: config_lib.Training,
) -> None:
  """Starts saving the averages of `ema_relative_std`; returns when `state` may be donated.

  A snapshot that is there already is the same, and left. Wait for it (`checkpoints.finish`) before
  saving a checkpoint of this step or a later one: a run that is killed takes again what is not yet
  on disk only if it resumes from before it.

  Raises:
    OSError: as `checkpoints.save`.
  """
  if step not in manager.all_steps():
    stds = config.ema_relative_std
    checkpoints.save(manager, step, dict(zip(map(str, stds), state.ema[-len(stds):], strict=True)))


def _sum(snapshots, state, weights, own, steps) -> Params | None:
  """Σ w θ̂; None where a snapshot cannot be read, whose step is then taken out of `steps`."""
  like = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state.params)
  total = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), out_shardings=jax.tree.map(
      lambda a: a.sharding, state.params))(state.params)
  for (step, std), weight in weights.items():
    if step in steps:
      try:
        average = _restored(snapshots, step, str(std), like)
      except checkpoints.Damaged as error:
        print(f"snapshot of step {step} is damaged and left out ({error})", file=sys.stderr)
        steps.remove(step)
        return None
    else:
      average = state.ema[own.index(Choice("relative_std", std))]
    total = _add(total, weight, average)
    del average  # before the next is read
  return total


@functools.partial(jax.jit, donate_argnums=0)
def _add(total, weight, average):
  return jax.tree.map(lambda sum_, new: sum_ + weight.astype(new.dtype) * new, total, average)


def _restored(snapshots, step, name, like) -> Params:
  return checkpoints.read(snapshots, step, {name: like}, part=True)[name]


def _listed(choices: list[Choice]) -> str:
  return ", ".join(map(str, choices))
