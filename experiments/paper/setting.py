"""What a report is asked to measure."""

import pathlib
from typing import NamedTuple

from experiments.paper.exact import densities


class Setting(NamedTuple):
  """The options of a report, the same for every part.

  out: the report's directory. fast: small sizes. source: of the density, a name or the path of a
  file. workdir: of a user's run, which the part `certificate` alone asks for; "" for the report's.
  """

  out: pathlib.Path
  fast: bool = False
  seed: int = 0
  source: str = "three_modes"
  workdir: str = ""

  @property
  def density(self) -> densities.Density:
    """The density, in the precision of the part that asks."""
    return densities.load(self.source)
