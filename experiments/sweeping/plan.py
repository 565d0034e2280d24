"""What a sweep trains: one model for arms that learn the same, and groups of models that ride in
one program.

Models that differ in numbers alone (objective, path, learning rate, decay of weights, β₂, clipping,
half-lives, label dropout, seed) are one group; what changes shapes or the length of loops makes
another. A sweep's directory remembers its plan in sweep.json.
"""

import json
import pathlib
from typing import Any, NamedTuple

from experiments import config as config_lib
from experiments.run import records
from experiments.sweeping import arms, canonical

# Numbers of training that one program takes as arguments, arm by arm.
NUMBERS = ("learning_rate", "gradient_clip", "label_dropout")
# The same of the runner's own optimizers.
OPTIMIZER_NUMBERS = ("b2", "weight_decay")
_TRACED = {f"training.{name}" for name in NUMBERS}
_OPTIMIZER = {f"training.optimizer.{name}" for name in OPTIMIZER_NUMBERS}


class Plan(NamedTuple):
  """base: the config that arms override. model_of: arm → the arm whose model it samples from.

  groups: names of the models of each program.
  """

  base: config_lib.Config
  sweep: arms.Sweep
  configs: dict[str, config_lib.Config]
  findings: list[canonical.Finding]
  model_of: dict[str, str]
  groups: list[list[str]]


def make(
    base: config_lib.Config, sweep: arms.Sweep, configs: dict[str, config_lib.Config],
    findings: list[canonical.Finding],
) -> Plan:
  """One model for arms that differ in sampling alone, and for those that are found identical."""
  first: dict[Any, str] = {}
  model_of = {name: first.setdefault(canonical.training_fields(config), name)
              for name, config in configs.items()}
  for finding in findings:
    if finding.kind == "identical" and finding.holds:
      same = model_of[finding.like]
      model_of = {arm: same if of == finding.arm else of for arm, of in model_of.items()}
  groups: dict[Any, list[str]] = {}
  for name in dict.fromkeys(model_of.values()):
    groups.setdefault(_shapes(configs[name]), []).append(name)
  return Plan(base, sweep, configs, findings, model_of, list(groups.values()))


def _shapes(config: config_lib.Config) -> tuple[tuple[str, Any], ...]:
  """Every field that a program is compiled for."""
  lives = len(config.training.ema_half_life_steps)
  traced = _TRACED | (_OPTIMIZER if config.training.optimizer.name == "adamw" else set())
  return (*((name, lives if name == "training.ema_half_life_steps" else value)
            for name, value in canonical.learned(config) if name not in traced),)


def write(workdir: pathlib.Path, plan: Plan, command: list[str]) -> None:
  """sweep.json."""
  records.write_text(workdir / "sweep.json", json.dumps({
      "command": command,
      "config": json.loads(config_lib.to_json(plan.base)),
      "arms": plan.sweep.arms,
      "baseline": plan.sweep.baseline,
      "seeds": plan.sweep.seeds,
      "findings": [finding._asdict() for finding in plan.findings],
      "model_of": plan.model_of,
      "groups": plan.groups,
      "commit": records.commit(),
      "numerics": records.numerics(),
  }, indent=2, ensure_ascii=False) + "\n")


def read(workdir: pathlib.Path) -> Plan:
  """The plan in `workdir`.

  Raises:
    ValueError: there is none, or it cannot be read.
  """
  file = workdir / "sweep.json"
  if not file.is_file():
    raise ValueError(f"--workdir {workdir} holds no sweep (no sweep.json)")
  try:
    found = records.read_json(file, config=dict, arms=dict, baseline=str, seeds=list,
                              findings=list, model_of=dict, groups=list)
    base = config_lib.from_json(json.dumps(found["config"]))
    sweep = arms.Sweep(found["arms"], found["baseline"], tuple(found["seeds"]))
    findings = [canonical.Finding(**finding) for finding in found["findings"]]
    # Checked when the plan was made; checking would need jax, whose devices are not chosen yet.
    configs = {name: config_lib.override(base, over) for name, over in sweep.arms.items()}
    models = [model for group in found["groups"] for model in group]
    if (found["model_of"].keys() != configs.keys() or sweep.baseline not in configs
        or set(models) != set(found["model_of"].values()) or not set(models) <= configs.keys()
        or not all(type(seed) is int for seed in sweep.seeds)):
      raise ValueError("arms, baseline, seeds, model_of and groups do not belong together")
    return Plan(base, sweep, configs, findings, found["model_of"], found["groups"])
  except (TypeError, AttributeError, ValueError, RecursionError) as error:
    raise ValueError(f"{file} cannot be read: {error}") from error


def check_same(workdir: pathlib.Path, base: config_lib.Config, sweep: arms.Sweep) -> None:
  """Raises ValueError where `workdir` holds another sweep or something else; says what differs."""
  if not (workdir / "sweep.json").exists():
    if (workdir / "config.json").exists():
      raise ValueError(f"--workdir {workdir} holds a run; a sweep needs a directory of its own")
    return
  records.check_numerics(workdir, "sweep.json")
  old = read(workdir)
  changes = config_lib.difference(old.base, base)
  wanted = json.loads(json.dumps(sweep.arms))
  names = {name for name in {**old.sweep.arms, **wanted}
           if old.sweep.arms.get(name) != wanted.get(name)}
  changes += [f"arm {name!r}" for name in sorted(names)]
  changes += [f"{what}: {a!r} → {b!r}" for what, a, b in (
      ("BASELINE", old.sweep.baseline, sweep.baseline), ("SEEDS", old.sweep.seeds, sweep.seeds))
      if a != b]
  if changes:
    raise ValueError(f"--workdir {workdir} holds another sweep: {'; '.join(changes)} (workdir → "
                     "command); choose another --workdir")


def place(workdir: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
  """The run directory of an arm and seed."""
  return workdir / "arms" / arms.directory(arm) / f"seed_{seed}"
