"""Trains one group of a sweep to the end and leaves a run directory for every arm and seed.

The group's own state, checkpoints and history.json, lies in groups/<index>/ until its members are
written; a killed group goes on from there. Measured at eighths of the training, with the average
that samplers use; samples, which cost the most, are drawn at quarters.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.data import facts
from experiments.run import assembly, checkpoints, memory, meshes, progress, records
from experiments.sweeping import arms, measures, plan, program
from experiments.sweeping import history as history_lib
from langevin_jax import training

_POINTS = 8


class Group(NamedTuple):
  """members: (arm whose model it is, seed), in the program's order. arms_of: model → its arms."""

  members: list[tuple[str, int]]
  arms_of: dict[str, list[str]]
  runs: dict[str, assembly.Run]


def devices(members: int, workers: int) -> int:
  """How many virtual CPU devices `members` make use of, where `subprocesses` share the machine."""
  return max(1, min(members, (os.cpu_count() or 1) // max(workers, 1)))


def assemble(whole: plan.Plan, index: int) -> Group:
  """The group's runs, each on one device, with their data loaded once.

  Raises:
    ValueError: bad input.
  """
  models = whole.groups[index]
  arms_of = {model: [arm for arm, of in whole.model_of.items() if of == model] for model in models}
  one = meshes.make(config_lib.Mesh(1, 1, 1), jax.devices()[:1])
  dataset = dataset_of(whole.configs[models[0]])
  made = {}
  for arm in (arm for shared in arms_of.values() for arm in shared):
    config = whole.configs[arm]
    made[arm] = assembly.assemble(
        config, dataset.train.shape[1:], dataset.num_classes, one)._replace(dataset=dataset)
    assembly.check_labels(made[arm], config.sampling)
  return Group([(model, seed) for model in models for seed in whole.sweep.seeds], arms_of, made)


def dataset_of(config: config_lib.Config) -> data.Dataset:
  """The data that a config names."""
  return data.load(config.data)


def train(workdir: pathlib.Path, whole: plan.Plan, index: int, *, at_once: int = 0) -> None:
  """Trains and judges whatever of the group is not done yet.

  Raises:
    ValueError, OSError: bad input, the disk.
  """
  if not missing(workdir, whole, index):
    return
  group, here = assemble(whole, index), workdir / "groups" / str(index)
  if jax.local_devices()[0].platform == "cpu":
    memory.check_state(whole.configs[group.members[0][0]], members=len(group.members))
  with records.locked(here):
    facts.claim(here, group.runs[group.members[0][0]].dataset)
    many = program.make([(group.runs[model], seed) for model, seed in group.members],
                        jax.local_devices()[:len(group.members)], at_once=at_once)
    meter = _Meter(group, many, whole.base)
    states, history = _trained(group, many, meter, here)
    _finish(workdir, whole, group, meter, states, history)
    shutil.rmtree(here / "checkpoints", ignore_errors=True)


def missing(workdir: pathlib.Path, whole: plan.Plan, index: int) -> list[tuple[str, int]]:
  """(arm, seed) of the group without a result."""
  return [(arm, seed) for arm, model in whole.model_of.items() if model in whole.groups[index]
          for seed in whole.sweep.seeds
          if not (plan.place(workdir, arm, seed) / "result.json").exists()]


class _Meter:
  """The held-out loss and the samples' distances of all members at once."""

  def __init__(self, group: Group, many: program.Program, base: config_lib.Config):
    self._many, self._group = many, group
    leader = group.runs[group.members[0][0]]
    self._leader = leader._replace(config=dataclasses.replace(
        leader.config, objective=base.objective, evaluation=base.evaluation))
    self._judged = self._leader._replace(dataset=data.reduced(leader.dataset))
    self._draws = measures.held_out(self._judged)
    self._errors = many.each(measures.errors(leader.apply))
    self.labels = measures.labels(self._judged)
    self.judge = measures.Judge(self._judged, len(self.labels))
    self._samplers: dict[Any, Any] = {}

  def losses(self, states: training.TrainState) -> list[tuple[float, float]]:
    """(held-out loss, its standard error) of every member."""
    draws = self._draws
    values = self._errors(self._many.members, states.ema[0], draws.x_0, draws.labels, draws.ells,
                          draws.eps)
    return [measures.integral(draws, of_member) for of_member in np.asarray(values)]

  @property
  def held_out(self) -> dict[str, int]:
    """Of how many examples the held-out loss is, and of how many draws."""
    example = self._draws.example
    return {"examples": len(np.unique(example)), "draws": example.size}

  def samples(self, states: training.TrainState, arm: str) -> np.ndarray:
    """By the arm's sampling from every member's model, (members, n, *shape) in standard units."""
    config = self._group.runs[arm].config
    key = arms.sampling_fields(config)
    if key not in self._samplers:
      run = self._leader._replace(config=dataclasses.replace(
          self._leader.config, sampling=config.sampling, path=config.path))
      self._samplers[key] = self._many.each(measures.sampler(run, len(self.labels)))
    return np.asarray(self._samplers[key](self._many.members, states.ema[0], self.labels))


def _trained(
    group: Group, many: program.Program, meter: _Meter, here: pathlib.Path
) -> tuple[training.TrainState, dict[str, Any]]:
  """The states after the last step, and everything measured on the way."""
  config = group.runs[group.members[0][0]].config.training
  history = history_lib.History(here, many.size)
  points = _points(config)
  with checkpoints.manager(here, keep=1) as manager:
    states = checkpoints.restore(manager, many.abstract, discard_damaged=True)
    first = 0 if states is None else max(manager.all_steps())
    states = many.init(many.members) if states is None else many.padded(states)
    history.cut(first)
    if first:
      print(f"resuming group {here.name} at step {first} of {config.steps}", flush=True)
    with progress.bar(config.steps, first, f"group {here.name}: {many.size} at once") as bar:
      for start, end, after in _advanced(group, many, states, first, history):
        states = after
        bar(end, f"{failed} failed" if (failed := len(history.content["failed"])) else "")
        if end in points:
          drawn = sorted(points).index(end) % 2 == 1 or end == config.steps
          with history.aside():
            history.point(end, _measured(group, meter, states, drawn))
        if end in points or end // config.checkpoint_every > start // config.checkpoint_every:
          history.write(end)
          checkpoints.save(manager, end, many.saved(states))
    checkpoints.finish(manager)
  return states, history.content


def _advanced(
    group: Group, many: program.Program, states: training.TrainState, first: int,
    history: history_lib.History,
) -> Iterator[tuple[int, int, training.TrainState]]:
  """(first step, last, states) of each dispatch; metrics are read one dispatch late."""
  leader = group.runs[group.members[0][0]]
  config, dataset = leader.config.training, leader.dataset
  streams = [data.stream(dataset, seed=seed, start=first, stop=config.steps,
                         batch_size=config.batch_size) for seed in many.seeds]
  waiting = None
  for start in range(first, config.steps, config.steps_per_dispatch):
    end = min(start + config.steps_per_dispatch, config.steps)
    parts = [[next(stream) for _ in range(start, end)] for stream in streams]
    batches = tuple(np.stack([np.stack([step[i] for step in stream]) for stream in parts])
                    for i in (0, 1))
    states, measured = many.advance(many.members, states, batches)
    if waiting is not None:
      history.add(*waiting, config.log_every)
    waiting = (start, measured)
    if end == config.steps or end in _points(config) or (
        end // config.checkpoint_every > start // config.checkpoint_every):
      history.add(*waiting, config.log_every)
      waiting = None
    yield start, end, states


def _points(config: config_lib.Training) -> set[int]:
  """Steps at which members are measured: eighths, at ends of dispatches, and the last step."""
  every = config.steps_per_dispatch
  return {min(-(-config.steps * i // (_POINTS * every)) * every, config.steps)
          for i in range(1, _POINTS + 1)}


def _measured(
    group: Group, meter: _Meter, states: training.TrainState, with_samples: bool
) -> list[dict[str, float]]:
  """The numbers of every member at one point of the budget.

  Samples are drawn by the sampling of the arm that gives the model its name; where arms differ in
  sampling alone, the others' budget is network calls, at the end.
  """
  found = [{measures.LOSS: value, measures.ERROR: error} for value, error in meter.losses(states)]
  drawn: dict[Any, np.ndarray] = {}
  for i, (model, seed) in enumerate(group.members if with_samples else ()):
    key = arms.sampling_fields(group.runs[model].config)
    if key not in drawn:
      drawn[key] = meter.samples(states, model)
    x = drawn[key][i]
    if np.isfinite(x).all():
      found[i] |= meter.judge.distances(x, seed)
  return found[:len(group.members)]


def _finish(
    workdir: pathlib.Path, whole: plan.Plan, group: Group, meter: _Meter,
    states: training.TrainState, history: dict[str, Any],
) -> None:
  """Run directories of all members, and of the arms that share their models.

  A result.json is what says that an arm and seed is done, so it comes last.
  """
  undone = lambda arm, seed: not (plan.place(workdir, arm, seed) / "result.json").exists()
  config_of = lambda arm, seed: dataclasses.replace(whole.configs[arm], seed=seed)
  for i, (model, seed) in enumerate(group.members):
    if undone(model, seed):
      _write_run(plan.place(workdir, model, seed), config_of(model, seed),
                 group.runs[model].dataset, program.member_state(states, i), history, i)
  floors = {seed: meter.judge.floors(seed) for seed in whole.sweep.seeds}
  # Arms that are sampled alike are drawn and judged together.
  alike: dict[Any, list[str]] = {}
  for arm, run in group.runs.items():
    alike.setdefault(arms.sampling_fields(run.config), []).append(arm)
  for names in alike.values():
    wanted = [(arm, i, seed) for arm in names for i, (model, seed) in enumerate(group.members)
              if whole.model_of[arm] == model and undone(arm, seed)]
    if not wanted:
      continue
    x = meter.samples(states, names[0])
    calls = measures.calls(whole.configs[names[0]])
    judged = {i: _judged(meter, x[i], seed, history, i)
              for i, seed in {i: seed for _, i, seed in wanted}.items()}
    for arm, i, seed in wanted:
      place, model = plan.place(workdir, arm, seed), whole.model_of[arm]
      if arm != model:
        _share_run(place, plan.place(workdir, model, seed), config_of(arm, seed), model)
      final, error = judged[i]
      records.write_text(place / "result.json", json.dumps({
          "arm": arm, "seed": seed, "model": model, "error": error, "final": final,
          "points": [{"step": point["step"], **point["values"][i]}
                     for point in history["points"]] if not error else [],
          "network_calls": calls, "floors": floors[seed],
          "held_out": meter.held_out,
      }, indent=2, ensure_ascii=False) + "\n")


def _judged(
    meter: _Meter, x: np.ndarray, seed: int, history: dict[str, Any], i: int
) -> tuple[dict[str, float], str]:
  """(numbers by metric, "") of a member's samples, or ({}, error) where it failed."""
  if str(i) in history["failed"]:
    return {}, history["failed"][str(i)]["error"]
  if not np.isfinite(x).all():
    return {}, "samples are not finite"
  loss = history["points"][-1]["values"][i][measures.LOSS]
  return ({measures.LOSS: loss} | meter.judge.distances(x, seed)
          | meter.judge.images(x, meter.labels, seed)), ""


def _write_run(
    place: pathlib.Path, config: config_lib.Config, dataset: data.Dataset,
    state: training.TrainState, history: dict[str, Any], i: int,
) -> None:
  """What experiments.train leaves, of one member."""
  shutil.rmtree(place, ignore_errors=True)  # half of what a kill has cut off
  records.claim(place, config)
  facts.claim(place, dataset)
  metrics = records.Metrics(place, 0)
  for line in history["lines"]:
    values = {name: line[name][i] for name in ("loss", "grad_norm", "level_error", "level_count")}
    seconds = line["seconds"]
    metrics.write(line["step"], values, seconds=seconds, steps_per_second=line["steps"] / seconds,
                  host_seconds_per_step=0.0)
  metrics.close()
  step = int(state.step)
  with checkpoints.manager(place, keep=1) as manager:
    checkpoints.save(manager, step, state)
    checkpoints.finish(manager)
  records.manifest(
      place, config, finished=step == config.training.steps, steps=step, members=len(
          history["lines"][-1]["loss"]) if history["lines"] else 0,
      parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
      sha256=records.sha256(state.params), sha256_ema=records.sha256(state.ema[0]))


def _share_run(
    place: pathlib.Path, model: pathlib.Path, config: config_lib.Config, name: str
) -> None:
  """The run of an arm that samples from another arm's model: its checkpoints are a link."""
  shutil.rmtree(place, ignore_errors=True)
  place.mkdir(parents=True)
  records.write_text(place / "config.json", config_lib.to_json(config))
  for what in ("checkpoints", "metrics.jsonl", facts.FILE, facts.MOMENTS):
    (place / what).symlink_to(os.path.relpath(model / what, place))
  manifest = records.read_manifest(model)
  manifest |= {"config": json.loads(config_lib.to_json(config)), "model_of_arm": name}
  records.write_text(place / "manifest.json", json.dumps(manifest, indent=2) + "\n")
