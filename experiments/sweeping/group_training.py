"""Trains one group of a sweep and writes a run directory for every arm and seed.

The checkpoints and the history.json of the group are in groups/<index>/ until the run directories
are written. A killed group resumes from there. Members are measured at eighths of the training,
with the parameter average of the samplers. Samples cost most and are drawn at quarters.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.data import facts
from experiments.run import (
    assembly,
    checkpoints,
    conditions,
    files,
    memory,
    meshes,
    progress,
    records,
)
from experiments.sweeping import arms, history, layouts, measures, program
from langevin_jax import training

_POINTS = 8


class Group(NamedTuple):
  """The members of a program.

  members: (name of the model, seed) in the order of the program. runs: the run of every arm.
  """

  members: list[tuple[str, int]]
  runs: dict[str, assembly.Run]

  @property
  def leader(self) -> assembly.Run:
    """The run of the first model, for all that members have in common."""
    return self.runs[self.members[0][0]]


def devices(members: int, workers: int) -> int:
  """The number of virtual CPU devices for `members`, if `workers` share the machine."""
  return max(1, min(members, (os.cpu_count() or 1) // max(workers, 1)))


def assemble(layout: layouts.Layout, index: int) -> Group:
  """The runs of a group, each on one device; their data are loaded once.

  Raises:
    ValueError: bad input.
  """
  models = layout.groups[index]
  mesh = meshes.make(config_lib.Mesh(1, 1, 1), jax.devices()[:1])
  dataset = data.load(layout.configs[models[0]].data)
  runs = {}
  # Arms are in the order of their models: of arms with equal sampling, the first is drawn.
  for arm in (arm for name in models for arm, model in layout.model_of.items() if model == name):
    config = layout.configs[arm]
    runs[arm] = assembly.assemble(
        config, dataset.train.shape[1:], dataset.num_classes, mesh,
        conditions.kinds(dataset), len(dataset.vocabulary))._replace(dataset=dataset)
    assembly.check_labels(runs[arm], config.sampling)
  return Group([(model, seed) for model in models for seed in layout.sweep.seeds], runs)


def train(workdir: pathlib.Path, layout: layouts.Layout, index: int, *, at_once: int = 0) -> None:
  """Trains and evaluates the members of a group that have no result yet.

  Raises:
    ValueError: bad input.
    OSError: the disk fails.
  """
  if not layouts.missing(workdir, layout, index):
    return
  group, folder = assemble(layout, index), workdir / "groups" / str(index)
  if jax.local_devices()[0].platform == "cpu":
    memory.check_state(group.leader.config, members=len(group.members))
  with records.locked(folder):
    facts.claim(folder, group.leader.dataset)
    assembly.load_teacher(group.leader)  # a checkpoint cannot be read while a program is traced
    trainings = program.make([(group.runs[model], seed) for model, seed in group.members],
                             jax.local_devices()[:len(group.members)], at_once=at_once)
    meter = _Meter(group, trainings, layout.base)
    states, content = _train(group, trainings, meter, folder)
    _write_models(workdir, layout, group, trainings, states, content)
    _write_results(workdir, layout, group, meter, states, content)
    files.delete_folder(folder / "checkpoints")


class _Meter:
  """Measures the held-out loss of all members at once, draws their samples, and compares them."""

  def __init__(self, group: Group, trainings: program.Program, base: config_lib.Config):
    self._trainings, self._group = trainings, group
    config = group.leader.config
    objective = dataclasses.replace(base.objective, flow_map=config.objective.flow_map)
    self._leader = group.leader._replace(config=dataclasses.replace(
        config, objective=objective, evaluation=base.evaluation))
    run = self._leader._replace(dataset=data.comparison_data(group.leader.dataset))
    self._draws = measures.held_out(run)
    self._errors = trainings.each(measures.errors(group.leader.apply, group.leader.path))
    self.labels = measures.labels(run)
    self._count = len(jax.tree.leaves(self.labels)[0])
    self.judge = measures.Judge(run, self._count)
    self._sampler = functools.cache(self._compile_sampler)

  def losses(self, states: training.TrainState) -> list[tuple[float, float]]:
    """(held-out loss, its standard error) of every member."""
    draws = self._draws
    values = self._errors(self._trainings.members, states.ema[0], draws.x_0, draws.labels,
                          draws.ells, draws.eps)
    return [measures.integral(draws, errors) for errors in np.asarray(values)]

  @property
  def held_out(self) -> dict[str, int]:
    """The numbers of examples and of draws in the held-out loss."""
    return {"examples": len(np.unique(self._draws.example)), "draws": self._draws.example.size}

  def samples(self, states: training.TrainState, arm: str) -> np.ndarray:
    """Samples (members, n, *shape) of all models in standard units, by the sampling of an arm."""
    draw = self._sampler(*arms.sampling_fields(self._group.runs[arm].config))
    return np.asarray(draw(self._trainings.members, states.ema[0], self.labels))

  def _compile_sampler(self, sampling: config_lib.Sampling, path: config_lib.Call | None):
    """The compiled sampler of all members. `path` is None if samples do not depend on it."""
    config = dataclasses.replace(self._leader.config, sampling=sampling)
    if path is not None:
      config = dataclasses.replace(config, path=path)
    return self._trainings.each(measures.sampler(self._leader._replace(config=config), self._count))


def _train(
    group: Group, trainings: program.Program, meter: _Meter, folder: pathlib.Path
) -> tuple[training.TrainState, dict[str, Any]]:
  """(the states after the last step, the content of the history)."""
  config, points = group.leader.config.training, _points(group.leader.config.training)
  log = history.History(folder)
  with checkpoints.manager(folder, keep=1) as manager:
    states = checkpoints.restore(manager, trainings.abstract, discard_damaged=True)
    first = 0 if states is None else max(manager.all_steps())
    states = trainings.init(trainings.members) if states is None else states
    log.cut(first)
    if first:
      print(f"resuming group {folder.name} at step {first} of {config.steps}", flush=True)
    title = f"group {folder.name}: {len(group.members)} at once"
    with progress.bar(config.steps, first, title) as bar:
      for start, end, new_states in _dispatches(group, trainings, states, first, log):
        states = new_states
        failed = len(log.content["failed"])
        bar(end, f"{failed} failed" if failed else "")
        if end in points:
          with log.paused():
            log.point(end, _measure(group, meter, states, with_samples=(
                sorted(points).index(end) % 2 == 1 or end == config.steps)))
        if end in points or _is_saved(config, start, end):
          log.write(end)
          checkpoints.save(manager, end, states)
    checkpoints.finish(manager)
  return states, log.content


def _dispatches(
    group: Group, trainings: program.Program, states: training.TrainState, first: int,
    log: history.History,
) -> Iterator[tuple[int, int, training.TrainState]]:
  """Yields (start, end, states after step end) of each dispatch.

  The metrics of a dispatch are read after the next one is sent, so that devices do not wait.
  """
  config, points = group.leader.config.training, _points(group.leader.config.training)
  streams = [data.stream(group.leader.dataset, seed=seed, start=first, stop=config.steps,
                         batch_size=config.batch_size) for seed in trainings.seeds]
  unread = None
  for start in range(first, config.steps, config.steps_per_dispatch):
    end = min(start + config.steps_per_dispatch, config.steps)
    parts = [[next(stream) for _ in range(start, end)] for stream in streams]
    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    batches = stack([stack(stream) for stream in parts])
    states, metrics = trainings.advance(trainings.members, states, batches)
    if unread is not None:
      log.add(*unread, config.log_every)
    unread = (start, metrics)
    if end in points or _is_saved(config, start, end):
      log.add(*unread, config.log_every)
      unread = None
    yield start, end, states


def _points(config: config_lib.Training) -> set[int]:
  """The steps at which members are measured: eighths, rounded up to ends of dispatches."""
  every = config.steps_per_dispatch
  return {min(-(-config.steps * i // (_POINTS * every)) * every, config.steps)
          for i in range(1, _POINTS + 1)}


def _is_saved(config: config_lib.Training, start: int, end: int) -> bool:
  """Whether a checkpoint is due in the steps start … end."""
  return end // config.checkpoint_every > start // config.checkpoint_every


def _measure(
    group: Group, meter: _Meter, states: training.TrainState, *, with_samples: bool
) -> list[dict[str, float]]:
  """The measurements of every member at one point of the training, by metric.

  Samples are drawn with the sampling of the arm that names the model. The other arms of the model
  are sampled only at the end.
  """
  values = [{measures.LOSS: loss, measures.ERROR: error} for loss, error in meter.losses(states)]
  if with_samples:
    drawn = functools.cache(lambda model: meter.samples(states, model))
    leader_of: dict[Any, str] = {}
    for i, (model, seed) in enumerate(group.members):
      key = arms.sampling_fields(group.runs[model].config)
      x = drawn(leader_of.setdefault(key, model))[i]
      if np.isfinite(x).all():
        values[i] |= meter.judge.distances(x, seed)
  return values


def _write_models(
    workdir: pathlib.Path, layout: layouts.Layout, group: Group, trainings: program.Program,
    states: training.TrainState, content: dict[str, Any],
) -> None:
  """Writes run directories of all members in the form of experiments.train, without result.json."""
  for i, (model, seed) in enumerate(group.members):
    if layouts.is_done(workdir, model, seed):
      continue
    directory = layouts.run_directory(workdir, model, seed)
    config = dataclasses.replace(layout.configs[model], seed=seed)
    state = program.member_state(trainings, states, i)
    files.delete_folder(directory)  # an incomplete one after a kill
    records.claim(directory, config)
    facts.claim(directory, group.leader.dataset)
    metrics = records.Metrics(directory, 0)
    for line in content["lines"]:
      values = {name: line[name][i] for name in ("loss", "grad_norm", "level_error", "level_count")}
      metrics.write(line["step"], values, seconds=line["seconds"], host_seconds_per_step=0.0,
                    steps_per_second=line["steps"] / line["seconds"])
    metrics.close()
    step = int(state.step)
    with checkpoints.manager(directory, keep=1) as manager:
      assembly.save(manager, step, state, group.runs[model])
      checkpoints.finish(manager)
    records.manifest(
        directory, config, finished=step == config.training.steps, steps=step,
        members=len(group.members),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        sha256=records.sha256(state.params), sha256_ema=records.sha256(state.ema[0]))


def _write_results(
    workdir: pathlib.Path, layout: layouts.Layout, group: Group, meter: _Meter,
    states: training.TrainState, content: dict[str, Any],
) -> None:
  """Writes result.json of every arm and seed of the group. The file marks it as done.

  Arms with equal sampling are drawn and evaluated together.
  """
  floors = {seed: meter.judge.floors(seed) for seed in layout.sweep.seeds}
  by_sampling: dict[Any, list[str]] = {}
  for arm, run in group.runs.items():
    by_sampling.setdefault(arms.sampling_fields(run.config), []).append(arm)
  for names in by_sampling.values():
    todo = [(arm, i, seed) for arm in names for i, (model, seed) in enumerate(group.members)
            if layout.model_of[arm] == model and not layouts.is_done(workdir, arm, seed)]
    if not todo:
      continue
    x = meter.samples(states, names[0])
    evaluations = {i: _evaluate(meter, x[i], seed, content, i)
                   for i, seed in {i: seed for _, i, seed in todo}.items()}
    for arm, i, seed in todo:
      directory, model = layouts.run_directory(workdir, arm, seed), layout.model_of[arm]
      if arm != model:
        _link_run(directory, layouts.run_directory(workdir, model, seed),
                  dataclasses.replace(layout.configs[arm], seed=seed), model)
      final, error = evaluations[i]
      points = [{"step": point["step"], **point["values"][i]} for point in content["points"]]
      records.write_text(directory / "result.json", json.dumps({
          "arm": arm, "seed": seed, "model": model, "error": error, "final": final,
          "points": [] if error else points, "floors": floors[seed], "held_out": meter.held_out,
          "network_calls": measures.calls(layout.configs[names[0]]),
      }, indent=2, ensure_ascii=False) + "\n")


def _evaluate(
    meter: _Meter, x: np.ndarray, seed: int, content: dict[str, Any], i: int
) -> tuple[dict[str, float], str]:
  """(values by metric, "") of the i-th member with samples x, or ({}, error) if it failed."""
  if str(i) in content["failed"]:
    return {}, content["failed"][str(i)]["error"]
  if not np.isfinite(x).all():
    return {}, "samples are not finite"
  loss = content["points"][-1]["values"][i][measures.LOSS]
  return ({measures.LOSS: loss} | meter.judge.distances(x, seed)
          | meter.judge.images(x, meter.labels, seed)), ""


def _link_run(
    directory: pathlib.Path, model: pathlib.Path, config: config_lib.Config, name: str
) -> None:
  """Writes the run of an arm that samples from the model of another arm, by symbolic links.

  In a bucket, which has no links, the files are copied.

  Args:
    model: the run directory of the model. name: of the model.
  """
  files.delete_folder(directory)
  records.make_directory(directory)
  records.write_text(directory / "config.json", config_lib.to_json(config))
  for name_of_file in ("checkpoints", "metrics.jsonl", facts.FILE, facts.MOMENTS):
    files.link(model / name_of_file, directory / name_of_file)
  manifest = records.read_manifest(model)
  manifest |= {"config": config_lib.to_plain(config), "model_of_arm": name}
  records.write_text(directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")
