"""The options of a report."""

import pathlib
from typing import NamedTuple

from experiments.paper.exact import densities


class Setting(NamedTuple):
  """The options of a report, common to all parts.

  out: the report's directory. fast: small sizes. source: name or file of the density. workdir: a
  user's run for the part `certificate`; "" for the run of the report.
  """

  out: pathlib.Path
  fast: bool = False
  seed: int = 0
  source: str = "three_modes"
  workdir: str = ""

  @property
  def density(self) -> densities.Density:
    """The density, in JAX's current precision."""
    return densities.load(self.source)
