"""Ablations: the arms of a sweep file, trained with every seed, compared seed by seed.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --sweep=experiments/sweeps/parameterizations.py --workdir=runs/parameterizations

Arms that differ in numbers alone train as one program, spread over all devices; the others as
processes of their own, `--workers` at once, or as Slurm jobs. Arms that are provably the same
experiment are named, and trained once. Every arm and seed ends as a run directory for
experiments.sample, in workdir/arms/; the comparison is in report.md, in report.html, which is one
file, and in table.json. The same command goes on where it was stopped. A sweep file is described in
experiments/sweeping/arms.py.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from experiments.config import cli
from experiments.report import page
from experiments.run import assembly, multihost, records, subprocesses
from experiments.sweeping import (
  arms,
  canonical,
  groups,
  jobs,
  measures,
  plan,
  report,
  results,
)

flags.declare_key_flag("config")
_SWEEP = flags.DEFINE_string("sweep", "", "Python file with sweep() → {arm: {field: value}}.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the sweep; made if absent.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Groups that are trained at once on this machine.")
_LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where groups are trained.")
_PARTITION = flags.DEFINE_string("slurm_partition", "", "Of --launcher=slurm.")
_MINUTES = flags.DEFINE_integer("slurm_minutes", 240, "Time limit of a job of --launcher=slurm.")
_GPUS = flags.DEFINE_integer("slurm_gpus", 0, "GPUs of a job of --launcher=slurm.")
_PLAN_ONLY = flags.DEFINE_bool("plan_only", False, "Say what would be trained, and stop.")
_AT_ONCE = flags.DEFINE_integer(
    "at_once", 0, "Members (arm × seed) in one vmap, the rest in a loop, where memory is short; "
    "0: all on accelerators, on CPU all or one, by the size of the network.")
_GROUP = flags.DEFINE_integer("group", -1, "Train this group of the sweep in --workdir, no more: "
                              "what launchers start.")
_UNTIL = flags.DEFINE_bool("until_stdin_closes", False, "Of --group: end when standard input is "
                           "closed, as it is when what started this has ended.")


def main() -> int:
  with subprocesses.ended_in_order():
    return _main()


def _main() -> int:
  if _WORKERS.value < 1 or _AT_ONCE.value < 0:
    raise ValueError(f"--workers must be at least 1 and --at_once at least 0, got {_WORKERS.value} "
                     f"and {_AT_ONCE.value}")
  if _GROUP.value >= 0:
    return _one_group(cli.workdir(_WORKDIR.value))
  base, sweep = cli.config(), arms.load(_SWEEP.value)
  _configure(base, len(sweep.arms) * len(sweep.seeds))
  configs = arms.configs(base, sweep)
  for name, config in configs.items():
    _named(name, lambda config=config: measures.check(config))
  workdir = None if _PLAN_ONLY.value else cli.workdir(_WORKDIR.value)
  if workdir is not None:
    plan.check_same(workdir, base, sweep)
  if workdir is None:
    _say(_planned(base, sweep, configs))
    return 0
  with records.locked(workdir):
    return _run(workdir, base, sweep, configs)


def _run(workdir: pathlib.Path, base, sweep: arms.Sweep, configs) -> int:
  command = ["python", "-m", "experiments.sweep", *sys.argv[1:]]
  if (workdir / "sweep.json").exists():
    whole = plan.read(workdir)
  else:
    whole = _planned(base, sweep, configs)
    plan.write(workdir, whole, command)
  _say(whole)
  todo = [i for i in range(len(whole.groups)) if groups.missing(workdir, whole, i)]
  done = len(configs) * len(sweep.seeds) - sum(
      len(groups.missing(workdir, whole, i)) for i in todo)
  if done:
    print(f"{done} of {len(configs) * len(sweep.seeds)} (arm, seed) are done already", flush=True)
  errors = _launched(workdir, whole, todo)
  found, floors = results.gather(workdir, whole, errors)
  table = results.table(whole, found, floors)
  report.write(workdir, whole, table, command, flags.FLAGS["config"].value)
  print("\n" + page.table(report.rows(table)))
  failed = [(arm, seed, error) for arm, result in found.items()
            for seed, error in result.errors.items()]
  for arm, seed, error in failed:
    print(f"failed: {arm}, seed {seed}: {error}", file=sys.stderr)
  print(f"\nin {workdir}/: report.html, report.md, table.json, arms/")
  return 1 if failed else 0


def _planned(base, sweep: arms.Sweep, configs) -> plan.Plan:
  """The plan, with the gradients of arms that are alike compared; loads the data of every arm."""
  datasets, gradients, findings = {}, {}, []
  for name, config in configs.items():
    if config.data not in datasets:
      datasets[config.data] = _named(name, lambda config=config: groups.dataset_of(config))
    _named(name, lambda config=config: canonical.network(config, datasets[config.data]))
  for finding in canonical.find(configs):
    config = configs[finding.arm]
    dataset = datasets[config.data]
    key = (config.data, config.network)
    if key not in gradients:
      gradients[key] = canonical.gradient(config, dataset)
    findings.append(canonical.verify(finding, configs, gradients[key],
                                     canonical.examples(dataset)))
  return plan.make(base, sweep, configs, findings)


def _launched(workdir: pathlib.Path, whole: plan.Plan, todo: list[int]) -> dict[int, str]:
  if not todo:
    return {}
  if _LAUNCHER.value == "local":
    return jobs.local(workdir, whole, todo, workers=_WORKERS.value, at_once=_AT_ONCE.value)
  resources = {"timeout_min": _MINUTES.value, "gpus_per_node": _GPUS.value}
  if _PARTITION.value:
    resources["slurm_partition"] = _PARTITION.value
  return jobs.slurm(workdir, whole, todo, at_once=_AT_ONCE.value, resources=resources)


def _one_group(workdir: pathlib.Path) -> int:
  if _UNTIL.value:
    subprocesses.end_with_stdin()
  whole = plan.read(workdir)
  if _GROUP.value >= len(whole.groups):
    raise ValueError(f"--group must be less than {len(whole.groups)}, got {_GROUP.value}")
  _configure(whole.base, len(whole.groups[_GROUP.value]) * len(whole.sweep.seeds))
  groups.train(workdir, whole, _GROUP.value, at_once=_AT_ONCE.value)
  return 0


def _configure(base, members: int) -> None:
  count = groups.devices(members, _WORKERS.value)
  assembly.configure_jax(dataclasses.replace(
      base, training=dataclasses.replace(base.training, cpu_devices=count)))
  multihost.check_devices()


def _say(whole: plan.Plan) -> None:
  for sentence in canonical.sentences(whole.findings, most=4):
    print(sentence)
  models, seeds = len(set(whole.model_of.values())), len(whole.sweep.seeds)
  print(f"{len(whole.configs)} arms, {models} models × {seeds} seeds, {len(whole.groups)} "
        f"program{'s' * (len(whole.groups) > 1)}")
  for i, models in enumerate(whole.groups):
    some = "; ".join(models[:4]) + f" … ({len(models)})" * (len(models) > 4)
    print(f"  program {i}: {len(models) * seeds} at once: {some}", flush=True)


def _named(arm: str, action):
  try:
    return action()
  except ValueError as error:
    raise ValueError(f"--sweep: arm {arm!r}: {error}") from error


if __name__ == "__main__":
  cli.run(main)
