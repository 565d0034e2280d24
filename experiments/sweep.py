"""Ablations: the arms of a sweep file, trained with every seed, compared seed by seed.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --sweep=experiments/sweeps/parameterizations.py --workdir=runs/parameterizations

Arms that differ only in numbers train in one program on all devices. The programs run as processes,
`--workers` at once, or as Slurm jobs. Arms that are the same experiment under different names are
reported and trained once. Every arm and seed becomes a run directory in workdir/arms/, for use with
experiments.sample. The comparison is in report.md, report.html and table.json. After a kill, the
same command resumes. experiments/sweeping/arms.py describes sweep files.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from experiments import data
from experiments.config import build, cli
from experiments.report import page
from experiments.run import assembly, buckets, conditions, multihost, records, subprocesses
from experiments.sweeping import (
  arms,
  equivalence,
  group_training,
  launchers,
  layouts,
  measures,
  report,
  results,
)

flags.declare_key_flag("config")
_SWEEP = flags.DEFINE_string("sweep", "", "Python file with sweep() → {arm: {field: value}}.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the sweep; created if needed.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Groups that train at once on this machine.")
_LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where groups train.")
_PARTITION = flags.DEFINE_string("slurm_partition", "", "Partition for --launcher=slurm.")
_MINUTES = flags.DEFINE_integer("slurm_minutes", 240, "Time limit of a job of --launcher=slurm.")
_GPUS = flags.DEFINE_integer("slurm_gpus", 0, "GPUs of a job of --launcher=slurm.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be trained, and stop.")
_AT_ONCE = flags.DEFINE_integer(
    "at_once", 0, "Members (arm × seed) in one vmap; the vmaps run in a loop, which saves memory. "
    "0: all on accelerators; on CPU all or one, by the size of the network.")
_GROUP = flags.DEFINE_integer("group", -1, "Train only this group of the sweep in --workdir; for "
                              "launchers.")
_UNTIL = flags.DEFINE_bool("until_stdin_closes", False, "With --group: end when standard input is "
                           "closed, which happens when the parent process has ended.")


def main() -> int:
  with subprocesses.ended_in_order():
    if _WORKERS.value < 1 or _AT_ONCE.value < 0:
      raise ValueError("--workers must be at least 1 and --at_once at least 0, got "
                       f"{_WORKERS.value} and {_AT_ONCE.value}")
    return _sweep() if _GROUP.value < 0 else _train_group(cli.workdir(_WORKDIR.value))


def _sweep() -> int:
  """Checks all arms, trains them and writes the report; the exit status."""
  base, sweep = cli.config(), arms.load(_SWEEP.value)
  _configure_jax(base, len(sweep.arms) * len(sweep.seeds))
  configs = arms.configs(base, sweep)
  for name, config in configs.items():
    _with_arm_name(name, measures.check, config)
  if _DRY_RUN.value:
    _print_layout(_layout(base, sweep, configs))
    return 0
  workdir = cli.workdir(_WORKDIR.value)
  if buckets.is_bucket(workdir) and _LAUNCHER.value == "slurm":
    raise ValueError(f"--workdir {workdir}: --launcher=slurm needs a disk that its jobs share")
  layouts.check_same(workdir, base, sweep)
  with records.locked(workdir):
    return _train_and_report(workdir, base, sweep, configs)


def _train_and_report(workdir: pathlib.Path, base, sweep: arms.Sweep, configs) -> int:
  """Trains the arms without results, writes and prints the report; the exit status."""
  command = ["python", "-m", "experiments.sweep", *sys.argv[1:]]
  if (workdir / "sweep.json").exists():
    layout = layouts.read(workdir)
  else:
    layout = _layout(base, sweep, configs)
    layouts.write(workdir, layout, command)
  _print_layout(layout)
  missing = {i: layouts.missing(workdir, layout, i) for i in range(len(layout.groups))}
  todo, count = [i for i in missing if missing[i]], len(configs) * len(sweep.seeds)
  if done := count - sum(map(len, missing.values())):
    print(f"{done} of {count} (arm, seed) are done already", flush=True)
  arm_results, floors = results.gather(workdir, layout, _launch(workdir, layout, todo))
  table = results.table(layout, arm_results, floors)
  report.write(workdir, layout, table, command, flags.FLAGS["config"].value)
  print("\n" + page.table(report.rows(table)))
  failed = [f"failed: {arm}, seed {seed}: {error}" for arm, result in arm_results.items()
            for seed, error in result.errors.items()]
  if failed:
    print("\n".join(failed), file=sys.stderr)
  print(f"\nin {workdir}/: report.html, report.md, table.json, arms/")
  return 1 if failed else 0


def _layout(base, sweep: arms.Sweep, configs) -> layouts.Layout:
  """The layout of the sweep. Before, the network of every arm is built for its data, as a check."""
  datasets = {}
  for name, config in configs.items():
    if config.data not in datasets:
      datasets[config.data] = _with_arm_name(name, data.load, config.data)
    dataset = datasets[config.data]
    _with_arm_name(name, lambda config=config, dataset=dataset: build.network(
        config.network, dataset.train.shape[1:], dataset.num_classes,
        conditions=conditions.kinds(dataset),
        tokens=build.tokens(config.path, len(dataset.vocabulary))))
  return layouts.make(base, sweep, configs, equivalence.find(configs))


def _launch(workdir: pathlib.Path, layout: layouts.Layout, todo: list[int]) -> dict[int, str]:
  """Trains the groups. Returns {group: error} of those that failed."""
  if not todo:
    return {}
  if _LAUNCHER.value == "local":
    return launchers.local(workdir, layout, todo, workers=_WORKERS.value, at_once=_AT_ONCE.value)
  resources = {"timeout_min": _MINUTES.value, "gpus_per_node": _GPUS.value}
  if _PARTITION.value:
    resources["slurm_partition"] = _PARTITION.value
  return launchers.slurm(workdir, layout, todo, at_once=_AT_ONCE.value, resources=resources)


def _train_group(workdir: pathlib.Path) -> int:
  """Trains the group of --group; the exit status."""
  if _UNTIL.value:
    subprocesses.end_with_stdin()
  layout = layouts.read(workdir)
  if _GROUP.value >= len(layout.groups):
    raise ValueError(f"--group must be less than {len(layout.groups)}, got {_GROUP.value}")
  _configure_jax(layout.base, len(layout.groups[_GROUP.value]) * len(layout.sweep.seeds))
  group_training.train(workdir, layout, _GROUP.value, at_once=_AT_ONCE.value)
  return 0


def _configure_jax(base, members: int) -> None:
  """Configures jax with the devices for a number of members."""
  count = group_training.devices(members, _WORKERS.value)
  assembly.configure_jax(dataclasses.replace(
      base, training=dataclasses.replace(base.training, cpu_devices=count)))
  multihost.check_devices()


def _print_layout(layout: layouts.Layout) -> None:
  """Prints arms, models and programs."""
  for sentence in equivalence.sentences(layout.findings, most=4):
    print(sentence)
  count, seeds = len(set(layout.model_of.values())), len(layout.sweep.seeds)
  print(f"{len(layout.configs)} arms, {count} models × {seeds} seeds, {len(layout.groups)} "
        f"program{'s' * (len(layout.groups) > 1)}")
  for i, models in enumerate(layout.groups):
    listed = "; ".join(models[:4]) + f" … ({len(models)})" * (len(models) > 4)
    print(f"  program {i}: {len(models) * seeds} at once: {listed}", flush=True)


def _with_arm_name(arm: str, check, *arguments):
  """The result of check(*arguments). A ValueError gets the name of the arm."""
  try:
    return check(*arguments)
  except ValueError as error:
    raise ValueError(f"--sweep: arm {arm!r}: {error}") from error


if __name__ == "__main__":
  cli.run(main)
