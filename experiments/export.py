"""Writes the parameters of a trained run to one file, with a model card beside it.

  python -m experiments.export --workdir=runs/digits --out=digits.safetensors --licence=cc-by-4.0

The file holds the parameter average of the samplers, or that of --ema, by the paths of parameters
in the network. `train --init_from=digits.safetensors` starts another run from it.
"""

import pathlib
import shlex
from typing import Any

from absl import flags

import langevin_jax
from experiments import config as config_lib
from experiments.config import cli
from experiments.data import facts
from experiments.report import page
from experiments.run import assembly, checkpoints, model, parameters, records

_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run.")
_OUT = flags.DEFINE_string("out", "", "The .safetensors or .npz file; the card is beside it, .md.")
_EMA = flags.DEFINE_string(
    "ema", "", "Which average of the parameters: half_life=STEPS, relative_std=WIDTH or none; the "
    "run's first half-life if not given.")
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest if not given.")
# The fields of data.json in the card.
_DATA = ("kind", "shape", "num_classes", "classes", "examples", "mean", "scale", "value_range",
         "origin")

_LICENCE = flags.DEFINE_string(
    "licence", "", "Licence of the parameters, for the card, such as apache-2.0.")


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = records.read_config(workdir)
  out = output(_OUT.value)
  assembly.configure_jax(config)
  loaded = model.load(workdir, ema=_EMA.value, step=_STEP.value)
  records.make_directory(out.parent, "--out")
  parameters.write(out, loaded.params)
  card = out.with_suffix(".md")
  records.write_text(card, model_card(workdir, config, loaded, out))
  arrays = checkpoints.by_path(loaded.params)
  print(f"{len(arrays)} arrays, {sum(leaf.size for leaf in arrays.values()):,} parameters of step "
        f"{loaded.step} in {out}; card in {card}")
  return 0


def output(value: str) -> pathlib.Path:
  """The file of --out. Raises ValueError if it or its card exists, or would be a file of a run."""
  if not value:
    raise ValueError("--out is required, such as --out=model.safetensors")
  out = cli.place("--out", value)
  if out.suffix not in parameters.SUFFIXES:
    raise ValueError(f"--out must end in {' or '.join(parameters.SUFFIXES)}, got {out}")
  files = [out, out.with_suffix(".md")]
  records.check_not_owned(files)
  for file in files:
    if file.exists():
      raise ValueError(f"--out: {file} exists; choose another --out, or delete it")
  return out


def model_card(
    workdir: pathlib.Path, config: config_lib.Config, loaded: model.Model, out: pathlib.Path
) -> str:
  """The card in Markdown with a YAML head: data, metrics, commands, config and licence."""
  data, evaluation = records.read_json(workdir / facts.FILE), _evaluation(workdir)
  summary = [["fact", "value"], *([name, str(data[name])] for name in _DATA
                                  if data.get(name, "") != "")]
  manifest = records.read_manifest(workdir)
  number = lambda value: "" if value is None else f"{value:.4g}"
  metrics = [["metric", "samples", "floor", "n"], *(
      [each["label"], number(each["value"]), number(each["floor"]), each.get("n") or ""]
      for each in evaluation.values())]
  return str(page.fill(
      "model_card.md.j2", name=out.stem, licence=_LICENCE.value,
      version=manifest.get("version", langevin_jax.__version__),
      average=_EMA.value or assembly.average_names(config.training)[0], step=loaded.step,
      commit=manifest.get("commit", ""), sha256=records.sha256(loaded.params), file=out.name,
      data=summary, metrics=metrics if evaluation else [], config=config_lib.to_json(config),
      train=_commands(manifest, loaded.step),
      begin=f"langevin train --config=… --workdir=… --init_from={shlex.quote(out.name)}"))


def _commands(manifest: dict[str, Any], step: int) -> list[str]:
  """The first command of the run, and each that has changed its config before `step`."""
  sessions = manifest.get("sessions") or [{"command": manifest.get("command", ["unknown"])}]
  return [_command(session["command"]) for i, session in enumerate(sessions)
          if not i or (session.get("changes") and session.get("from_step", 0) < step)]


def _command(words: list[str]) -> str:
  """A command of the manifest, whose program is a file of the runner, as one types it."""
  program, suffix, _ = words[0].partition(".py")
  return shlex.join([*(["langevin", program] if suffix else [program]), *words[1:]])


def _evaluation(workdir: pathlib.Path) -> dict[str, Any]:
  """The metrics of evaluation.json; {} if it is missing or damaged."""
  try:
    return records.read_json(workdir / "evaluation.json", metrics=dict)["metrics"]
  except (OSError, ValueError):
    return {}


if __name__ == "__main__":
  cli.run(main, at_once=True)
