"""The layout of a sweep: which arms share a model, and which models share a program.

Arms with the same training share a model. Models share a program if they differ only in objective,
path, learning rate, weight decay, β₂, clipping, half-lives, label dropout and seed. Models with
other shapes or other numbers of steps need another program. sweep.json stores the layout.
"""

import json
import pathlib
from typing import Any, NamedTuple

from experiments import config as config_lib
from experiments.run import records
from experiments.sweeping import arms, equivalence

# The fields of training that are arguments of a program.
NUMBERS = ("learning_rate", "gradient_clip", "label_dropout")
# The arguments of the optimizer adamw that are arguments of a program.
OPTIMIZER_NUMBERS = ("b2", "weight_decay")


class Layout(NamedTuple):
  """Arms, models and programs of a sweep.

  base: the config that arms override. model_of: arm → the arm whose model it samples from.
  groups: the names of the models of each program.
  """

  base: config_lib.Config
  sweep: arms.Sweep
  configs: dict[str, config_lib.Config]
  findings: list[equivalence.Finding]
  model_of: dict[str, str]
  groups: list[list[str]]


def make(
    base: config_lib.Config, sweep: arms.Sweep, configs: dict[str, config_lib.Config],
    findings: list[equivalence.Finding],
) -> Layout:
  """The layout with one model for arms that differ only in sampling, and for identical arms."""
  first: dict[Any, str] = {}
  model_of = {name: first.setdefault(equivalence.training_fields(config), name)
              for name, config in configs.items()}
  for finding in findings:
    if finding.kind == "identical":
      model = model_of[finding.like]
      model_of = {arm: model if old == finding.arm else old for arm, old in model_of.items()}
  groups: dict[Any, list[str]] = {}
  for name in dict.fromkeys(model_of.values()):
    groups.setdefault(_compiled_fields(configs[name]), []).append(name)
  return Layout(base, sweep, configs, findings, model_of, list(groups.values()))


def _compiled_fields(config: config_lib.Config) -> tuple[tuple[str, Any], ...]:
  """The (name, value) of all fields of training that change the compiled program."""
  arguments = {f"training.{name}" for name in NUMBERS}
  if config.training.optimizer.name == "adamw":
    arguments |= {f"training.optimizer.{name}" for name in OPTIMIZER_NUMBERS}
  fields = equivalence.other_training_fields(config)
  return tuple((name, len(value) if name == "training.ema_half_life_steps" else value)
               for name, value in fields if name not in arguments)


def write(workdir: pathlib.Path, layout: Layout, command: list[str]) -> None:
  """Writes sweep.json."""
  records.write_text(workdir / "sweep.json", json.dumps({
      "command": command,
      "config": config_lib.to_plain(layout.base),
      **layout.sweep._asdict(),
      "findings": [finding._asdict() for finding in layout.findings],
      "model_of": layout.model_of,
      "groups": layout.groups,
      "commit": records.commit(),
      "numerics": records.numerics(),
  }, indent=2, ensure_ascii=False) + "\n")


def read(workdir: pathlib.Path) -> Layout:
  """Reads sweep.json.

  Raises:
    ValueError: there is none, or it cannot be read.
  """
  file = workdir / "sweep.json"
  if not file.is_file():
    raise ValueError(f"--workdir {workdir} holds no sweep (no sweep.json)")
  try:
    fields = records.read_json(file, config=dict, arms=dict, baseline=str, seeds=list,
                               findings=list, model_of=dict, groups=list)
    base = config_lib.from_json(json.dumps(fields["config"]))
    sweep = arms.Sweep(fields["arms"], fields["baseline"], tuple(fields["seeds"]))
    findings = [equivalence.Finding(**finding) for finding in fields["findings"]]
    # Arms were checked when the file was written. A check here would initialise jax before its
    # devices are configured.
    configs = {name: config_lib.override(base, values) for name, values in sweep.arms.items()}
    model_of, groups = fields["model_of"], fields["groups"]
    models = {model for group in groups for model in group}
    if (model_of.keys() != configs.keys() or sweep.baseline not in configs
        or models != set(model_of.values()) or not models <= configs.keys()
        or not all(type(seed) is int for seed in sweep.seeds)):
      raise ValueError("arms, baseline, seeds, model_of and groups do not belong together")
    return Layout(base, sweep, configs, findings, model_of, groups)
  except (TypeError, AttributeError, ValueError, RecursionError) as error:
    raise ValueError(f"{file} cannot be read: {error}") from error


def check_same(workdir: pathlib.Path, base: config_lib.Config, sweep: arms.Sweep) -> None:
  """Raises ValueError if `workdir` holds another sweep or a run; the message lists differences."""
  if not (workdir / "sweep.json").exists():
    if (workdir / "config.json").exists():
      raise ValueError(f"--workdir {workdir} holds a run; a sweep needs a directory of its own")
    return
  records.check_numerics(workdir, "sweep.json")
  old = read(workdir)
  changes = config_lib.difference(old.base, base)
  changes += [f"arm {name!r}" for name in sorted({**old.sweep.arms, **sweep.arms})
              if old.sweep.arms.get(name) != sweep.arms.get(name)]
  changes += [f"{name.upper()}: {getattr(old.sweep, name)!r} → {getattr(sweep, name)!r}"
              for name in ("baseline", "seeds") if getattr(old.sweep, name) != getattr(sweep, name)]
  if changes:
    raise ValueError(f"--workdir {workdir} holds another sweep: {'; '.join(changes)} (workdir → "
                     "command); choose another --workdir")


def run_directory(workdir: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
  """The run directory of an arm and seed."""
  return workdir / "arms" / arms.directory(arm) / f"seed_{seed}"


def is_done(workdir: pathlib.Path, arm: str, seed: int) -> bool:
  """Whether an arm and seed has a result.json, which is written last."""
  return (run_directory(workdir, arm, seed) / "result.json").exists()


def missing(workdir: pathlib.Path, layout: Layout, group: int) -> list[tuple[str, int]]:
  """The (arm, seed) of a group without a result."""
  return [(arm, seed) for arm, model in layout.model_of.items() if model in layout.groups[group]
          for seed in layout.sweep.seeds if not is_done(workdir, arm, seed)]
