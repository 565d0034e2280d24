"""Trains the model of a config and keeps everything about it in a workdir.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits

The same command again, or `--workdir` alone, resumes, and ends in the same parameters bit for bit
as a run that was never stopped. Ctrl-C or SIGTERM saves first.

  python -m experiments.train --workdir=runs/digits --config.training.steps=6000 \
    --allow_change=training.steps

changes the run from its newest checkpoint on.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import data
from experiments.config import build, cli
from experiments.data import facts
from experiments.run import (
  assembly,
  averages,
  checkpoints,
  dispatches,
  loggers,
  memory,
  meshes,
  multihost,
  parameters,
  progress,
  records,
  reporting,
  signals,
  watching,
)
from experiments.sampling import pictures
from langevin_jax import training

flags.declare_key_flag("config")
flags.adopt_module_key_flags(multihost)

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Directory of the run, or gs://bucket/folder; made if absent.")
_ALLOW_CHANGE = flags.DEFINE_list(
    "allow_change", [], "Fields of the config that may differ from the run's, such as "
    "training.steps,training.learning_rate: it continues with them from its newest checkpoint on.")
_INIT_FROM = flags.DEFINE_string(
    "init_from", "", "Parameters that a new run begins from: a workdir, one of its checkpoints "
    "(runs/x/checkpoints/3000), or a .safetensors or .npz file.")
_INIT_SKIP = flags.DEFINE_list(
    "init_skip", [], "Patterns of parameters that are not loaded from --init_from, such as "
    "'conditioning/label/*'; those of the network start at random.")


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = cli.config(workdir)
  assembly.configure_jax(config)
  joined = multihost.joined(lambda: records.same(config), stop_together=True)
  with contextlib.ExitStack() as held, joined:
    run = multihost.agreed(lambda: assembly.prepare(config, workdir=workdir))
    multihost.check_same({"data": data.digest(run.dataset)} if multihost.several() else {})
    meshes.check_batch(config.training, run.mesh)
    assembly.load_teacher(run)
    watching.check(run)
    memory.check_training(config, run.dataset.train.shape[1:], run.mesh)
    multihost.agreed(lambda: _check_init_from(run, workdir))

    def claim():
      held.enter_context(records.locked(workdir))
      records.check_claim(workdir, config, _ALLOW_CHANGE.value)
      # A logger that cannot begin is found before a new workdir is claimed.
      is_new = not (workdir / "config.json").exists()
      logger = build.logger(config.training.logger, workdir, 0) if is_new else None
      records.claim(workdir, config, _ALLOW_CHANGE.value)
      records.check_numerics(workdir)
      facts.claim(workdir, run.dataset)
      return logger

    logger = multihost.by_first(claim)
    multihost.say(data.summary(run.dataset))
    train(run, workdir, logger)
  return 0


def train(
    run: assembly.Run, workdir: pathlib.Path, logger: loggers.Logger | None = None
) -> training.TrainState:
  """Trains from the newest checkpoint to the last step, or until a signal.

  Args:
    logger: that of the config, if it has begun.

  Raises:
    FloatingPointError: loss or gradient not finite; names step and noise level. The newest
      checkpoint is from before it.
    OSError: the disk, or the workdir is no longer there.
  """
  config = run.config.training
  watcher, stop = watching.Watcher(run, workdir), signals.stopping()
  with contextlib.ExitStack() as open_:
    manager = open_.enter_context(checkpoints.manager(workdir, keep=config.keep_checkpoints))
    snapshots = open_.enter_context(averages.manager(workdir)) if config.snapshot_every else None
    state, changes = _begin(run, workdir, manager)
    first = saved = int(state.step)
    started = time.monotonic()
    reporter = open_.enter_context(_reporting(run, workdir, first, changes, logger))
    bar = open_.enter_context(progress.bar(
        config.steps, first, "training", shown=multihost.is_first()))
    for number, sent in enumerate(dispatches.run_steps(run, state)):
      state, end = sent.state, sent.end
      steps = dispatches.whole_steps(config, sent.start, end)
      watched = None
      if watcher.due(*steps):
        _check_finite(state, end)
        watched = signals.unless_stopped(functools.partial(watcher.look, *steps, state))
      leaving = stop(number) or end == config.steps
      save = leaving or dispatches.passes(config.checkpoint_every, *steps)
      snapshot = averages.snapshot_due(config, *steps)
      # What is saved is known to be finite.
      reporter.add(sent, now=save or snapshot or watched is not None, watched=watched)
      with signals.heard():
        bar(end, reporter.summary)
      if save or snapshot:
        _check_finite(state, end)
        reporter.flush()
      if snapshot:
        averages.save_snapshot(snapshots, end, state, config)
      if save:
        if snapshots:
          checkpoints.finish(snapshots)
        assembly.save(manager, end, state, run)
        saved = end
      if leaving:
        break
    checkpoints.finish(manager)
    if saved > first:
      reporter.flush()  # the workdir is still where the run began
  if not saved:
    multihost.say(f"stopped before step 1 of {config.steps}; the same command begins with it")
  elif saved < config.steps:
    multihost.say(f"stopped at step {saved} of {config.steps} and saved it in {workdir}; "
                  "the same command goes on from there")
  else:
    _finish(run, workdir, state, first, time.monotonic() - started)
  return state


def _begin(
    run: assembly.Run, workdir: pathlib.Path, manager: checkpoints.Manager
) -> tuple[training.TrainState, list[str] | None]:
  """The state that training continues from, and the changes of the config from there on.

  None in their place where the session is in manifest.json already.

  Raises:
    ValueError: flags or a config that do not fit what the run has done.
  """
  config, before = run.config.training, records.read_config(workdir).training
  try:
    state = checkpoints.restore(manager, assembly.abstract_state(run), discard_damaged=True,
                                reader=assembly.state_reader(run, before))
  except ValueError as error:
    if config.optimizer == before.optimizer:
      raise
    names = f"{before.optimizer.name} → {config.optimizer.name}"
    raise ValueError(f"config.training.optimizer: {names}, whose state has other arrays; choose "
                     f"another --workdir, where --init_from={workdir} begins from these parameters "
                     f"({error})") from error
  if state is None and _INIT_FROM.value:
    return _load_parameters(run, workdir, manager), None
  if state is None:
    records.check_seed_begins(workdir)
    state = assembly.start(run)
  elif _INIT_FROM.value and not records.began_from_parameters(workdir):
    raise ValueError(f"--init_from: the run in {workdir} has begun already; choose another "
                     "--workdir")
  step = int(state.step)
  if step > config.steps:
    raise ValueError(f"config.training.steps: {workdir} has done {step} steps already, more than "
                     f"{config.steps}")
  changes = multihost.by_first(lambda: records.change_config(workdir, run.config, step)) or []
  if step:
    multihost.say(f"resuming {workdir} at step {step} of {config.steps}")
  return state, changes


def _check_init_from(run: assembly.Run, workdir: pathlib.Path) -> None:
  """Raises ValueError where a new run cannot begin from --init_from, before anything is written."""
  if _INIT_SKIP.value and not _INIT_FROM.value:
    raise ValueError("--init_skip belongs to --init_from, which is not given")
  if _INIT_FROM.value and not (workdir / "checkpoints").is_dir():
    source = parameters.read(cli.place("--init_from", _INIT_FROM.value))
    parameters.fitting(run, source, _INIT_SKIP.value)


def _load_parameters(
    run: assembly.Run, workdir: pathlib.Path, manager: checkpoints.Manager
) -> training.TrainState:
  """The state before the first step with the parameters of --init_from.

  It is saved as step 0: a resume needs neither the flag nor its source. Their origin is recorded
  before, so that a kill in between loses neither.
  """
  source = parameters.read(cli.place("--init_from", _INIT_FROM.value))
  state, origin = parameters.start_from(run, source, _INIT_SKIP.value)
  multihost.say(f"{workdir} {parameters.described(origin)}")
  multihost.by_first(lambda: records.manifest(
      workdir, run.config, from_step=0, finished=False, began_from=origin,
      changes=records.change_config(workdir, run.config, 0), **_loss_of(run)))
  assembly.save(manager, 0, state, run)
  checkpoints.finish(manager)
  return state


@contextlib.contextmanager
def _reporting(
    run: assembly.Run, workdir: pathlib.Path, first: int, changes: list[str] | None,
    logger: loggers.Logger | None,
) -> Iterator[reporting.Reporter]:
  """The reporter of a session that begins at step `first`; process 0 writes the manifest."""
  config, metrics, linear = run.config.training, None, None
  if multihost.is_first():
    linear = reporting.LinearCheck(run, first)
    recorded = changes is None
    if recorded or changes or first < config.steps or not (workdir / "manifest.json").exists():
      if not recorded:
        records.manifest(workdir, run.config, from_step=first, finished=False, changes=changes,
                         **_loss_of(run))
      metrics = records.Metrics(
          workdir, first, lambda *begin: logger or build.logger(config.logger, *begin))
  remedy = reporting.remedy(run.config.objective)
  with contextlib.closing(
      reporting.Reporter(config, metrics, first, linear, remedy)) as reporter:
    yield reporter


def _finish(
    run: assembly.Run, workdir: pathlib.Path, state: training.TrainState, first: int,
    seconds: float,
) -> None:
  """Records the trained run in manifest.json and draws its pictures."""
  step = run.config.training.steps
  facts = {**_loss_of(run), "steps": step, "seconds": round(seconds, 1), "since_step": first,
           "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
           "sha256": records.sha256(multihost.fetch(state.params)),
           "sha256_ema": records.sha256(multihost.fetch(state.ema[0])),
           "classes": list(run.dataset.classes),
           **({"data": run.dataset.origin} if run.dataset.origin else {})}

  def write():
    if first == step and records.read_manifest(workdir).get("finished"):
      multihost.say(f"{workdir} is trained to step {step} already")
      return
    records.manifest(workdir, run.config, finished=True, **facts)
    pictures.training(workdir, run)
    multihost.say(f"trained to step {step} in {workdir} ({seconds:.0f} s from step {first}); "
                  f"sha256 of the parameters {facts['sha256'][:16]}")

  multihost.by_first(write)


def _loss_of(run: assembly.Run) -> dict[str, str]:
  """For the manifest: what `loss` in metrics.jsonl is of, where the objective learns."""
  adaptive = isinstance(run.loss, training.AdaptiveLoss)
  return {"loss_of": "the base density and weight, whatever is learned"} if adaptive else {}


def _check_finite(state: training.TrainState, step: int) -> None:
  """Raises FloatingPointError where a finite gradient has led to parameters that are not."""
  if not (all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))
          if multihost.in_host_memory() else _finite(state)):
    raise FloatingPointError(
        f"parameters are not finite after step {step - 1}; the last good checkpoint is kept. Lower "
        "training.learning_rate")


@jax.jit
def _finite(state) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


if __name__ == "__main__":
  cli.run(main, at_once=True)
