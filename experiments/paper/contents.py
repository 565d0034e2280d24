"""The parts of the report, in the order of the paper."""

import importlib
import types
from typing import NamedTuple


class Part(NamedTuple):
  """A table group, figure or question of the paper: the package experiments.paper.<package> with

    measure.py    measure(setting) → numbers: all computing; cached in data/<name>.json
    claims.py     claims(data) → each `Claim`: the values of the statements in claims.toml;
                  optionally context(data) → dict for the text
    figures.py    figures(data) → {name: figure}
    text.md.j2    title, paragraphs, tables, captions and the answer

  x64: measure in float64. needs: parts that must have run before. programs: modules that `measure`
  runs as commands, whose sources its numbers depend on as well.
  """

  name: str
  package: str
  x64: bool = False
  needs: tuple[str, ...] = ()
  programs: tuple[str, ...] = ()

  def path(self, module: str) -> str:
    return f"experiments.paper.{self.package}.{module}"

  def load(self, module: str) -> types.ModuleType:
    return importlib.import_module(self.path(module))


_TRAINING = ("experiments.train",)
_PLANE = (*_TRAINING, "experiments.configs.mixture2d")
_DIGITS = (*_TRAINING, "experiments.configs.digits")

PARTS = {part.name: part for part in (
    Part("tables", "tables", x64=True),
    Part("identity", "figures.identity", x64=True),
    Part("clouds", "figures.clouds", x64=True),
    Part("steps", "figures.steps", x64=True),
    Part("trajectories", "figures.trajectories", x64=True),
    Part("cycle", "figures.cycle", x64=True),
    Part("plane_run", "questions.plane_run", programs=_PLANE),
    Part("digits_run", "questions.digits_run", programs=_DIGITS),
    Part("duality", "questions.duality", x64=True),
    Part("certificate", "questions.certificate", needs=("plane_run",), programs=_PLANE),
    Part("stochasticity", "questions.stochasticity", needs=("plane_run",), programs=_PLANE),
    Part("vae", "questions.vae", needs=("plane_run", "digits_run"), programs=_PLANE + _DIGITS),
    Part("flow_matching", "questions.flow_matching"),
    Part("appendix", "appendix", x64=True),
)}
