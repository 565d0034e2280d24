"""The parts of the report, in the order of the paper."""

import importlib
import pathlib
import tomllib
import types
from typing import NamedTuple

from experiments.paper import claim

_FOLDER = pathlib.Path(__file__).parent


class Part(NamedTuple):
  """A table group, figure or question of the paper: the package experiments.paper.<package> with

    measure.py    measure(setting) → numbers: all computing; cached in data/<name>.json
    claims.toml   each `claim.Statement`, with its criterion and where the data hold its value
    claims.py     claims(data) → each `claim.Value` that is computed; context(data) → dict for the
                  text; either may be absent
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

  @property
  def folder(self) -> pathlib.Path:
    return _FOLDER.joinpath(*self.package.split("."))

  def statements(self) -> dict[str, claim.Statement]:
    text = (self.folder / "claims.toml").read_text(encoding="utf-8")
    return {name: claim.Statement(**entry) for name, entry in tomllib.loads(text).items()}

  def claims(self, data: claim.Data) -> list[claim.Claim]:
    """The claims of what was measured."""
    return claim.claims(self.statements(), self._optional("claims", data, ()), data)

  def context(self, data: claim.Data) -> claim.Data:
    """What the text needs besides the data."""
    return self._optional("context", data, {})

  def _optional(self, function: str, data: claim.Data, default):
    if not (self.folder / "claims.py").is_file():
      return default
    return getattr(self.load("claims"), function, lambda data: default)(data)


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
    Part("discrete", "questions.discrete", x64=True),
    Part("appendix", "appendix", x64=True),
)}
